"""The conformance suite of completion, for the pair of a broker and a backend, of one system or of two."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fastq.backend import Backend
from fastq.broker import Action, Broker, Decision, Subscription
from fastq.completion import Completed, Completion, completion_of
from fastq.message import Message
from fastq.outcome import Outcome, State
from fastq.testing.backends import success
from fastq.testing.broker_case import at_once, numbered, soon


class CompletionConformance:
    """One test a sentence of the contract in `fastq.completion`."""

    @pytest.fixture
    def broker(self) -> Broker:
        """Override: an open broker with nothing in it."""
        raise NotImplementedError("a subclass gives the broker")

    @pytest.fixture
    def backend(self) -> Backend:
        """Override: an open backend with nothing in it."""
        raise NotImplementedError("a subclass gives the backend")

    @pytest.fixture
    def subscription(self, broker: Broker) -> Iterator[Subscription]:
        """Serve the queue q."""
        subscription = broker.subscribe(["q"], 60.0, {})
        yield subscription
        subscription.close()

    @pytest.fixture
    def completion(self, subscription: Subscription, broker: Broker, backend: Backend) -> Completion:
        """Return the best completion for the pair."""
        return completion_of(subscription, broker.system, backend)

    def test_a_batch_is_stored_and_settled(
        self, broker: Broker, backend: Backend, subscription: Subscription, completion: Completion
    ) -> None:
        messages = numbered(600)
        broker.publish(messages)
        deliveries = soon(subscription)
        outcomes = [success(message.id) for message in messages]
        batch = [Completed(Decision(it), outcome) for it, outcome in zip(deliveries, outcomes, strict=True)]
        assert completion.complete(batch) == []
        assert backend.load([message.id for message in messages]) == outcomes
        subscription.close()
        assert broker.depth("q") == 0

    def test_every_action_may_have_an_outcome(
        self, broker: Broker, backend: Backend, subscription: Subscription, completion: Completion
    ) -> None:
        messages = numbered(4)
        broker.publish(messages)
        states = [State.SUCCESS, State.REVOKED, State.RETRY, State.FAILURE]
        outcomes = [Outcome(it.id, state) for it, state in zip(messages, states, strict=True)]
        batch = [
            Completed(Decision(it, action), outcome)
            for it, action, outcome in zip(soon(subscription), Action, outcomes, strict=True)
        ]
        assert completion.complete(batch) == []
        assert backend.load([it.id for it in messages]) == outcomes
        assert broker.depth("q") == 2

    def test_either_half_may_be_missing(
        self, broker: Broker, backend: Backend, subscription: Subscription, completion: Completion
    ) -> None:
        broker.publish(numbered(1))
        (delivery,) = soon(subscription)
        early = success()
        assert completion.complete([]) == []
        assert completion.complete([Completed(Decision(delivery), None), Completed(None, early)]) == []
        assert backend.load([early.id]) == [early]
        assert broker.depth("q") == 0

    def test_what_was_lost_is_returned(
        self, broker: Broker, subscription: Subscription, completion: Completion
    ) -> None:
        broker.publish(numbered(2))
        stale, good = soon(subscription)
        subscription.release([stale])
        batch = [Completed(Decision(it), success(Message.decode(it.frame).id)) for it in (stale, good)]
        assert completion.complete(batch) == [stale]
        assert broker.depth("q") == 1

    def test_one_system_does_not_store_the_outcome_of_what_was_lost(
        self, broker: Broker, backend: Backend, subscription: Subscription, completion: Completion
    ) -> None:
        if broker.system is None or broker.system is not backend.system:
            pytest.skip("two systems store first, and are fenced by the attempt")
        messages = numbered(2)
        broker.publish(messages)
        stale, good = soon(subscription)
        subscription.release([stale])
        outcomes = [success(message.id) for message in messages]
        batch = [Completed(Decision(it), outcome) for it, outcome in zip((stale, good), outcomes, strict=True)]
        completion.complete(batch)
        assert backend.load([it.id for it in messages]) == [None, outcomes[1]]

    def test_a_message_put_back_is_there_for_others(
        self, broker: Broker, subscription: Subscription, completion: Completion
    ) -> None:
        broker.publish(numbered(1))
        (delivery,) = soon(subscription)
        assert completion.complete([Completed(Decision(delivery, Action.REJECT), None)]) == []
        (again,) = soon(subscription)
        assert again.crashes == 1
        assert at_once(subscription) == []

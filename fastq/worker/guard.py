"""The guard around completion: outcomes are packed before they are stored, and what has ended is cleared away."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from fastq.broker import Action, Delivery
from fastq.completion import Completed, Completion
from fastq.errors import ProtocolError
from fastq.message import CLAIM, Message
from fastq.sealing import unsealed
from fastq.settings import Settings

from .replays import Replays

_SWEEP_EVERY_S = 3600.0


class GuardedCompletion(Completion):
    """Has another completion do it, for a worker with keys or claims. Outcomes of its own making are packed here."""

    def __init__(self, inner: Completion, settings: Settings, replays: Replays) -> None:
        self._inner = inner
        self._packing = settings.packing
        self._claims = settings.claims
        self._replays = replays
        self._sweep_at = 0.0  # a point on the monotonic clock

    def complete(self, batch: Sequence[Completed]) -> list[Delivery]:
        """Do as the contract says."""
        pack = self._packing.packed_outcome
        gone = self._inner.complete([
            each if each.outcome is None else each._replace(outcome=pack(each.outcome)) for each in batch
        ])  # fmt: skip
        lost = set(map(id, gone))
        decisions = [each.decision for each in batch if each.decision is not None]
        ended = [it.delivery.frame for it in decisions if it.action is Action.ACK and id(it.delivery) not in lost]
        self._replays.ended(ended)
        if self._claims is not None:
            self._claims.drop(_ids_in(ended))
            self._claims.drop(each.outcome.id for each in batch if _has_ended_early(each) and each.outcome is not None)
            if time.monotonic() >= self._sweep_at:
                self._sweep_at = time.monotonic() + _SWEEP_EVERY_S
                self._claims.sweep()
        return gone


def _has_ended_early(completed: Completed) -> bool:
    """Return whether a task that was acknowledged before it ran has ended for good."""
    return completed.decision is None and completed.outcome is not None and completed.outcome.state.terminal


def _ids_in(frames: Sequence[bytes]) -> Iterator[bytes]:
    """Yield the ids of the tasks whose bodies are kept aside."""
    for frame in frames:
        with suppress(ProtocolError):  # it is no message, and was read by nobody
            message = Message.decode(unsealed(frame))
            if message.content_type.endswith(CLAIM):
                yield message.id


def guard_of(settings: Settings, replays: Replays) -> Callable[[Completion], Completion]:
    """Return what puts the guard around a completion, where settings ask for one."""
    if not settings.packing.active and not settings.seals.active and settings.claims is None:
        return lambda inner: inner
    return lambda inner: GuardedCompletion(inner, settings, replays)

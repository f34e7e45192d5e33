"""Triage: what becomes of a message, by its envelope and what the broker knows of it."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastq import State
from fastq.broker import Action, Delivery
from fastq.completion import Completed
from fastq.errors import NotSupported, StateUnavailable
from fastq.failure import Failure
from fastq.message import Extras, Message, now_us
from fastq.pool import TaskInfo
from fastq.settings import Settings
from fastq.worker.triage import Flight, Triage

TASKS = {
    "add": TaskInfo("add"),
    "early": TaskInfo("early", ack="early"),
}
CALL = Message(bytes(15) + b"\1", "add", "default", b"[[4,4],{}]")


def triage(**settings: Any) -> Triage:
    return Triage(TASKS, Settings(**settings))


def delivery(frame: bytes, **fields: Any) -> Delivery:
    return Delivery(frame, "default", 1, 1, **fields)


def flight(message: Message, **fields: Any) -> Flight:
    sorted_out = triage().sort(delivery(message.encode(), **fields))
    assert isinstance(sorted_out, Flight)
    return sorted_out


def completed(frame: bytes, sorter: Triage | None = None, **fields: Any) -> Completed:
    sorted_out = (sorter or triage()).sort(delivery(frame, **fields))
    assert isinstance(sorted_out, Completed)
    return sorted_out


def reason_of(done: Completed) -> str:
    """Return why a message is a dead letter, after a look at what is kept of it."""
    assert done.decision is not None
    assert (done.decision.action, done.decision.frame) == (Action.DEAD, b"")
    if done.outcome is not None:
        failure = Failure.decode(done.outcome.body)
        assert (done.outcome.state, failure.type_name) == (State.FAILURE, "fastq.errors.DeadLettered")
        assert done.decision.reason in failure.message
    return done.decision.reason


# -- what can run ------------------------------------


def test_a_message_that_is_due_can_start() -> None:
    found = flight(CALL._replace(eta=now_us() - 1, expires=now_us() + 60_000_000))

    assert found.message.task == "add"
    assert (found.info, found.early, found.careful) == (TASKS["add"], False, False)


def test_a_message_that_is_due_within_a_millisecond_can_start() -> None:
    assert flight(CALL._replace(eta=now_us() + 500))


def test_a_message_in_json_can_start() -> None:
    found = triage().sort(delivery(b'{"task": "add", "args": [4, 4]}'))

    assert isinstance(found, Flight)
    assert found.message.body == CALL.body


@pytest.mark.parametrize(
    ("task", "suspect", "careful"), [("early", False, True), ("add", True, True), ("add", False, False)]
)
def test_the_broker_is_told_first_of_an_early_task_and_of_a_suspect(task: str, suspect: bool, careful: bool) -> None:
    assert flight(CALL._replace(task=task), suspect=suspect).careful is careful


# -- what can not ------------------------------------


def test_a_message_that_is_not_due_goes_back_until_it_is() -> None:
    eta = now_us() + 60_000_000

    done = completed(CALL._replace(eta=eta).encode())

    assert done.decision is not None
    assert (done.decision.action, done.decision.due, done.outcome) == (Action.RETRY, eta, None)


@pytest.mark.parametrize("ignore_result", [False, True])
def test_an_expired_message_is_acknowledged_and_revoked(ignore_result: bool, caplog: pytest.LogCaptureFixture) -> None:
    message = CALL._replace(expires=now_us(), ignore_result=ignore_result, extras=Extras(group=b"g" * 16))

    done = completed(message.encode())

    assert done.decision is not None
    assert done.decision.action is Action.ACK
    if ignore_result:
        assert done.outcome is None
    else:
        assert done.outcome is not None
        assert (done.outcome.id, done.outcome.state, done.outcome.group) == (CALL.id, State.REVOKED, b"g" * 16)
        assert Failure.decode(done.outcome.body).type_name == "fastq.errors.TaskRevoked"
    assert f"Task add[{CALL.uuid}] expired before it could start" in caplog.text


def test_what_is_no_message_is_a_dead_letter_with_the_reason() -> None:
    assert reason_of(completed(b"\x80\x04garbage")).startswith("Not a fastq message: ")
    assert reason_of(completed(b'{"task": "add", "eta": -1}')).startswith("Not a fastq message: 'eta' is -1")


def test_a_message_of_a_later_version_is_a_dead_letter_that_says_so() -> None:
    frame = bytearray(CALL.encode())
    frame[2] = 2

    assert "version 2 of the envelope is not known here" in reason_of(completed(bytes(frame)))


def test_a_message_over_the_limit_is_a_dead_letter_before_it_is_read() -> None:
    done = completed(b"{" * 3_000, triage(max_message_bytes=2_000))

    assert reason_of(done) == "3000 bytes are over the limit of max_message_bytes"


def test_a_message_that_ended_its_process_too_often_is_a_dead_letter() -> None:
    assert flight(CALL, crashes=4)
    assert "5 of its attempts ended with the death" in reason_of(completed(CALL.encode(), crashes=5))


@pytest.mark.parametrize("crashes", [0, 4])
def test_the_child_is_told_of_the_crashes_that_the_broker_counts(crashes: int) -> None:
    for claimed in (0, 3):
        found = flight(CALL._replace(crashes=claimed), crashes=crashes)

        assert Message.decode(found.frame) == CALL._replace(crashes=crashes)


@pytest.mark.parametrize("extras", [Extras(flows=(b"f" * 16,)), Extras(unique="add()")])
@pytest.mark.parametrize("fields", [{}, {"expires": 1}, {"task": "newer"}])
def test_a_message_that_others_wait_for_is_a_dead_letter_where_there_can_be_no_shared_state(
    extras: Extras, fields: dict[str, Any]
) -> None:
    def no_state() -> None:
        raise NotSupported("amqp://localhost keeps no shared state")

    done = completed(CALL._replace(extras=extras, **fields).encode(), Triage(TASKS, Settings(), no_state))

    assert reason_of(done) == "others wait for its end, and amqp://localhost keeps no shared state"
    assert done.message is None, "they can't be told"


def test_a_message_that_others_wait_for_can_start_while_the_shared_state_is_away() -> None:
    def away() -> None:
        raise StateUnavailable("it is restarted")

    message = CALL._replace(extras=Extras(flows=(b"f" * 16,)))

    assert isinstance(Triage(TASKS, Settings(), away).sort(delivery(message.encode())), Flight)


def test_the_failure_of_a_dead_letter_is_kept_for_whoever_waits_and_for_nobody_else() -> None:
    waited, ignored = (
        completed(CALL._replace(ignore_result=ignored).encode(), crashes=5).outcome for ignored in (False, True)
    )

    assert waited is not None
    assert waited.id == CALL.id
    assert ignored is None


# -- tasks that are not known here ------------------------------------


def test_an_unknown_task_is_held_for_a_newer_worker(caplog: pytest.LogCaptureFixture) -> None:
    sorter = triage(unknown_task_grace_s=300)
    frame = CALL._replace(task="newer").encode()
    before = now_us()

    first, second = completed(frame, sorter), completed(frame, sorter)

    for done in (first, second):
        assert done.decision is not None
        assert done.decision.action is Action.RETRY
        assert before + 250_000 <= done.decision.due <= now_us() + 10_000_000
        assert done.outcome is None
    assert caplog.text.count("is not known here") == 1, "once is enough"


def test_the_longer_a_task_is_unknown_the_longer_it_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    sorter, frame = triage(unknown_task_grace_s=300), CALL._replace(task="newer").encode()
    clock = 0.0
    monkeypatch.setattr("fastq.worker.triage.time.monotonic", lambda: clock)
    holds = []
    while clock < 290:
        before = now_us()
        decision = completed(frame, sorter).decision
        assert decision is not None
        holds.append((decision.due - before) / 1e6)
        clock += holds[-1]
    assert 0.25 <= holds[0] <= 0.5, "another worker may know it"
    assert 9 < max(holds) <= 10.1
    assert len(holds) < 60


def test_a_flood_of_unknown_tasks_is_named_once_for_each_task(caplog: pytest.LogCaptureFixture) -> None:
    sorter = triage(unknown_task_grace_s=300)
    for number in range(1_000):
        completed(b'{"task": "newer.%d", "args": [%d]}' % (number % 3, number), sorter)

    assert len(caplog.records) == 3


def test_a_flood_of_names_does_not_flood_the_log(caplog: pytest.LogCaptureFixture) -> None:
    sorter = triage(unknown_task_grace_s=300)
    for number in range(2_000):
        completed(b'{"task": "newer.%d"}' % number, sorter)

    assert len(caplog.records) == 1_000


def test_what_can_not_be_remembered_of_a_flood_is_held_for_long() -> None:
    sorter = triage(unknown_task_grace_s=300)
    for number in range(10_001):
        before = now_us()
        decision = completed(b'{"task": "newer", "args": [%d]}' % number, sorter).decision
        assert decision is not None

    assert decision.due >= before + 10_000_000


def wait_until_given_up(frame: bytes, sorter: Triage) -> Completed:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        done = completed(frame, sorter)
        if done.decision is not None and done.decision.action is Action.DEAD:
            return done
    pytest.fail("it is held for ever")


def test_an_unknown_task_is_given_up_after_the_grace() -> None:
    done = wait_until_given_up(CALL._replace(task="newer").encode(), triage(unknown_task_grace_s=0.02))

    assert reason_of(done) == "the task 'newer' is not known to this worker, nor was it within 0.02 s"


def test_an_unknown_task_in_json_without_an_id_is_given_up_after_the_grace() -> None:
    sorter = triage(unknown_task_grace_s=0.02)
    frame = b'{"task": "newer"}'
    actions = []
    given_up = time.monotonic() + 5
    while Action.DEAD not in actions and time.monotonic() < given_up:
        decision = completed(frame, sorter).decision
        assert decision is not None
        actions.append(decision.action)

    assert actions[0] is Action.RETRY
    assert actions[-1] is Action.DEAD


def test_a_flood_of_unknown_tasks_does_not_make_the_first_ones_forgotten() -> None:
    sorter = triage(unknown_task_grace_s=0.2)
    frames = [b'{"task": "newer", "args": [%d]}' % n for n in range(10_050)]
    for frame in frames:
        completed(frame, sorter)
    given_up = time.monotonic() + 5
    while time.monotonic() < given_up:
        decision = completed(frames[0], sorter).decision
        assert decision is not None
        if decision.action is Action.DEAD:
            break
    else:
        pytest.fail("the first of them was held for ever")


def test_without_a_grace_an_unknown_task_is_a_dead_letter_at_once() -> None:
    assert "'newer' is not known" in reason_of(
        completed(CALL._replace(task="newer").encode(), triage(unknown_task_grace_s=0))
    )


# -- strangers ------------------------------------


@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: b"{" + text.encode("utf-8", "replace")))
def test_any_bytes_are_sorted(frame: bytes) -> None:
    """Row 39."""
    assert triage().sort(delivery(frame))


def test_a_stranger_s_names_do_not_forge_log_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("a\\nb", "a\\u001b[2Jb", "\\u202eb", "a\\u0000b", "a\\u2028b", "a\\u0085b"):
        completed(b'{"task": "%b"}' % name.encode())
        completed(b'{"task": "add", "queue": "%b"}' % name.encode())
        completed(b'{"task": "add", "%b": 1}' % name.encode())

    assert len(caplog.records) == 18
    assert all(record.getMessage().isprintable() for record in caplog.records)

"""Signed and encrypted messages: all that a worker does goes on, and nothing that a stranger writes is obeyed."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fastq import FastQ, State, chain, group
from fastq._speedups import new_id
from fastq.broadcast import LOG, REVOKED, Command
from fastq.canvas.then import Later, Then
from fastq.deadletters import DeadLetters
from fastq.errors import DeadLettered, EncodingError, TaskRevoked
from fastq.message import Extras, Message
from fastq.outcome import Outcome
from fastq.state import Flow
from tests.apps import secured
from tests.ledger import eventually
from tests.semantics.conftest import Start

APP = "tests.apps.secured"

CANARY = "canary-in-the-mine"
KEYS: dict[str, Any] = {
    "signing_keys": (("ours", "a-secret-that-nobody-guesses-or-knows"),),
    "encryption_keys": (("body", "another-secret-that-nobody-guesses"),),
}
STRICT: dict[str, Any] = {**KEYS, "require_signed": True, "require_encrypted": True, "compress_over_bytes": 500}


@pytest.fixture
def app(app: FastQ) -> FastQ:
    """The app with keys, that trusts nobody without."""
    app.settings = replace(app.settings, **STRICT)
    return app


@pytest.fixture
def stranger(app: FastQ) -> Iterator[FastQ]:
    """An app that can write all that the other can, and has no keys."""
    settings = app.settings
    with FastQ("stranger", broker=settings.broker, backend=settings.backend, state=settings.state) as stranger:
        yield stranger


def frames_in(app: FastQ, *queues: str) -> list[bytes]:
    """Return what waits in queues, and leave it there."""
    subscription = app.broker.subscribe(queues or ("default",), 30.0, {})
    deliveries = subscription.fetch(100, time.monotonic() + 5)
    subscription.close()
    return [delivery.frame for delivery in deliveries]


def reasons(app: FastQ, count: int) -> list[str]:
    """Return why messages became dead letters, once there are so many."""
    dead = DeadLetters(app)
    eventually(lambda: len(dead.find(queue="default")) >= count)
    return [letter.reason for letter in dead.find(queue="default")]


# -- what goes on ------------------------------------


def test_all_that_a_worker_does_goes_on(app: FastQ, start: Start) -> None:
    with start():
        assert secured.add.delay(1, 2).get(20) == 3
        assert secured.second_time_lucky.delay("x" * 1000).get(20) == "x" * 1000
        assert secured.second_time_lucky_early.delay(1).get(20) == 1
        assert secured.later.delay([CANARY]).get(20) == [CANARY]
        assert secured.in_steps.delay("step").get(20) == "STEP"
        with pytest.raises(ValueError, match=CANARY):
            secured.fail.delay(CANARY).get(20)
        assert [result.get(20) for result in [secured.rarely.delay(n) for n in range(3)]] == [0, 1, 2]
        assert app.result(secured.calls_another.delay(4).get(20)).get(20) == 5
        assert secured.add.apply_async((1, 2), countdown=0.1).get(20) == 3


@pytest.mark.processes
@pytest.mark.parametrize("pool", ["threads", "asyncio"])
def test_they_go_on_in_the_other_pools(app: FastQ, start: Start, pool: str) -> None:
    with start(pool=pool):
        assert secured.second_time_lucky.delay("x" * 1000).get(20) == "x" * 1000
        assert secured.later.delay([CANARY]).get(20) == [CANARY]
        with pytest.raises(ValueError, match=CANARY):
            secured.fail.delay(CANARY).get(20)


def test_workflows_go_on(app: FastQ, start: Start) -> None:
    expired = chain(secured.add.s(1).set(expires=0.001), secured.add.s(2)).delay()
    with start():
        assert chain(secured.add.s(1, 1), secured.add.s(2), secured.echo.s()).delay().get(20) == 4
        both = group(secured.add.s(n, n) for n in range(3)) | secured.echo.s()
        assert both.delay().get(20) == [0, 2, 4]
        with pytest.raises(TaskRevoked, match="expired before it could start"):
            expired.get(20)
        told = secured.describe.s().set(task_id=str(uuid.uuid4()))
        failing = secured.fail.s(CANARY).on_error(told)
        with pytest.raises(ValueError, match=CANARY):
            (failing | secured.echo.s()).delay().get(20)
        assert app.result(told.options["task_id"]).get(20) == f"ValueError: {CANARY}"


def test_remote_control_goes_on(app: FastQ, start: Start) -> None:
    later = secured.add.apply_async((1, 2), countdown=0.5)
    later.revoke()
    app.control.pause("mail")
    with start(name="one"):
        eventually(lambda: app.control.ping() == {"one": "pong"})
        with pytest.raises(TaskRevoked):
            later.get(20)
        assert list(app.control.paused()) == ["mail"]
        assert app.control.add_consumer("other", timeout=20) == {"one": ["default", "other"]}
        assert list(app.control.workers()) == ["one"]


def test_nothing_that_is_stored_can_be_read(app: FastQ, start: Start, stranger: FastQ) -> None:
    secured.echo.delay(CANARY)
    chained = chain(secured.echo.s(CANARY), secured.echo.s()).delay()
    assert not [frame for frame in frames_in(stranger) if CANARY.encode() in frame]
    with start():
        assert chained.get(20) == CANARY
    (outcome,) = stranger.backend.load([chained._key])
    assert outcome is not None
    assert CANARY.encode() not in outcome.body
    with pytest.raises(EncodingError, match="no encryption_keys here"):
        stranger.result(chained.id).get(5)


def test_a_letter_whose_signature_is_too_old_is_signed_anew_when_it_is_put_back(app: FastQ, start: Start) -> None:
    kept = app.settings
    app.settings = replace(kept, signature_expires_s=0.000_001)
    result = secured.add.delay(1, 2)
    app.close()
    app.settings = kept
    dead = DeadLetters(app)
    with start():
        with pytest.raises(DeadLettered, match="its signature has expired"):
            result.get(20)
        eventually(dead.find)
        assert dead.requeue(dead.find()) == 1
        assert dead.find() == []
        assert app.result(result.id).get(20) == 3


def test_a_letter_can_be_read_and_edited_by_those_who_have_the_keys(app: FastQ, start: Start) -> None:
    app.send_task("tests.apps.secured.ad", (1, 2))
    dead = DeadLetters(app)
    with start(unknown_task_grace_s=0.0):
        eventually(dead.find)
        (letter,) = dead.find()
        assert letter.message is not None
        assert dead.arguments(letter.message) == ([1, 2], {})
        dead.edit(letter, args=[3, 4])
        eventually(lambda: dead.find() and dead.find()[0].token != letter.token)
        (letter,) = dead.find()
        assert letter.message is not None
        assert dead.arguments(letter.message) == ([3, 4], {})


# -- what strangers write ------------------------------------


def test_a_message_that_is_not_signed_or_was_changed_is_a_dead_letter_as_it_was(
    app: FastQ, start: Start, stranger: FastQ, tmp_path: Path
) -> None:
    mark = str(tmp_path / "mark")
    secured.touch.delay(mark)
    (signed,) = frames_in(app)
    app.broker.purge("default")
    forged = [
        b'{"task": "tests.apps.secured.touch", "args": ["%b"]}' % mark.encode(),
        Message(new_id(), "tests.apps.secured.touch", "default", b'[["%b"],{}]' % mark.encode()).encode(),
        signed[:-1] + bytes([signed[-1] ^ 1]),
        signed.replace(b"tests.apps.secured.touch", b"tests.apps.secured.echo.", 1),
    ]
    stranger.broker.publish_frames("default", forged)
    with start():
        assert secured.add.delay(1, 2).get(20) == 3
        found = reasons(app, 4)
    assert [reason.partition(",")[0] for reason in found] == [
        "it is not signed",
        "it is not signed",
        "its signature is not that of the key 'ours'",
        "its signature is not that of the key 'ours'",
    ]
    assert [letter.frame for letter in DeadLetters(app).find(queue="default")] == forged
    assert not Path(mark).exists()


def test_a_message_is_not_run_in_another_queue_nor_once_more_than_it_was_sent(
    app: FastQ, start: Start, stranger: FastQ, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    result = secured.touch.delay(str(mark))
    (signed,) = frames_in(stranger)
    with start(queues=["default", "mail"]):
        assert result.get(20) == str(mark)
        eventually(lambda: app.broker.depth("default") == 0)
        assert secured.add.delay(1, 2).get(20) == 3  # by now, the end of the other is settled
        stranger.broker.publish_frames("default", [signed])
        stranger.broker.publish_frames("mail", [signed])
        assert reasons(app, 1) == ["it has ended here before: a copy of a signed message is not run again"]
        dead = DeadLetters(app)
        eventually(lambda: dead.find(queue="mail"))
        assert "signed for 'queue:default'" in dead.find(queue="mail")[0].reason
    assert mark.read_text() == "ran\n"
    assert result.state is State.SUCCESS


def test_a_worker_obeys_no_command_and_no_fact_that_is_not_signed(
    app: FastQ, start: Start, stranger: FastQ, caplog: pytest.LogCaptureFixture
) -> None:
    result = secured.add.apply_async((1, 2), countdown=1.0)
    stranger.control.revoke(result.id)
    stranger.control.pause("default")
    stranger.control.rate_limit("tests.apps.secured.add", "1/h")
    with caplog.at_level(logging.WARNING), start(name="one") as worker:
        eventually(lambda: app.control.ping() == {"one": "pong"})
        assert stranger.control.workers() == {}
        shutdown = Command("shutdown", {"now": True}, at=time.time(), expires=time.time() + 60)
        stranger.state.append(LOG, [shutdown.encode()], keep=100, expires_s=60)
        assert result.get(20) == 3
        assert app.control.ping(timeout=20) == {"one": "pong"}
        assert worker.exit is None
    warned = [record.getMessage() for record in caplog.records if "is passed over" in record.getMessage()]
    about = {"fact:revoked:", "fact:paused:default", "fact:rate-limit:tests.apps.secured.add", "log:control"}
    assert {prefix for prefix in about if any(prefix in text for text in warned)} == about
    assert sum("fact:paused" in text for text in warned) == 1


def test_a_signed_command_or_fact_is_good_in_its_own_place_alone(app: FastQ, start: Start, stranger: FastQ) -> None:
    app.control.pause("mail")
    (pause,) = stranger.state.find("paused").values()
    result = secured.add.apply_async((1, 2), countdown=0.5)
    stranger.state.put("paused", {"default": pause}, 60)
    stranger.state.put(REVOKED, {result.id: pause}, 60)
    with start(name="one"):
        assert result.get(20) == 3
        follower = stranger.state.follow(LOG)
        app.control.add_consumer("other", timeout=20)
        (command,) = follower.read(time.monotonic() + 20)
        follower.close()
        assert app.control.cancel_consumer("other", timeout=20) == {"one": ["default"]}
        stranger.state.append(LOG, [command], keep=100, expires_s=60)
        assert app.control.ping(timeout=20) == {"one": "pong"}
        assert app.control.inspect(timeout=20).stats()["one"]["queues"] == ["default"]


def test_what_follows_in_a_workflow_is_not_what_a_stranger_says(
    app: FastQ, start: Start, stranger: FastQ, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Or else the worker would sign whatever is put into the shared state."""
    mark, flow = tmp_path / "mark", new_id()
    call = Message(new_id(), "tests.apps.secured.touch", "default", b'[["%b"],{}]' % str(mark).encode())
    awaited = Message(new_id(), "tests.apps.secured.add", "default", b"[[1,2],{}]", extras=Extras(flows=(flow,)))
    stranger.state.open_flows([Flow(flow, (awaited.id,), Then([Later(call)]).encode())], 60)
    with start():
        app.broker.publish([awaited])
        eventually(lambda: f"Flow {flow.hex()} leads nowhere: it is not signed" in caplog.text)
        assert secured.add.delay(1, 2).get(20) == 3
        assert app.broker.depth("default") == 0
    assert not mark.exists()


def test_a_result_that_a_stranger_stored_is_not_taken_for_one(app: FastQ, stranger: FastQ) -> None:
    message = Message(new_id(), "x", "default", b"")
    stranger.backend.store([Outcome.of(message, State.SUCCESS, b'"forged"')])
    with pytest.raises(EncodingError, match="require_encrypted"):
        app.result(message.uuid).get(5)

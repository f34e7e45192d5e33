"""Dead letters: what was given up can be found, put back, changed and dropped, with its bytes as they were."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from fastq import FastQ, State
from fastq.broker import Action, Decision
from fastq.deadletters import DeadLetters
from fastq.errors import ConfigurationError, DeadLettered, EncodingError
from tests.apps import basic
from tests.cli.terminal import fastq
from tests.ledger import eventually
from tests.semantics.conftest import Start

APP = "tests.apps.basic"


@pytest.fixture
def dead(app: FastQ) -> DeadLetters:
    return DeadLetters(app)


def give_up(app: FastQ, reason: str = "nobody wants it") -> None:
    """Send whatever waits to the dead letters."""
    subscription = app.broker.subscribe(["default", "mail"], 30.0, {})
    while deliveries := subscription.fetch(10, time.monotonic()):
        subscription.settle([Decision(delivery, Action.DEAD, reason=reason) for delivery in deliveries])
    subscription.close()


def test_dead_letters_are_found_by_what_is_known_of_them(app: FastQ, dead: DeadLetters) -> None:
    app.broker.queues()  # not on brokers that can't list them: of queues that the app does not know, nothing is found
    first = basic.add.delay(1, 2)
    give_up(app, "Nobody wants it")
    app.send_task("other.task", (3,), queue="mail")
    app.broker.publish_frames("default", [b"\xffno message"])
    give_up(app, "too old")

    assert [letter.id for letter in dead.find(task="tests.apps.*")] == [first.id]
    assert [letter.reason for letter in dead.find(reason="nobody")] == ["Nobody wants it"]
    assert [letter.task for letter in dead.find(queue="mail")] == ["other.task"]
    assert sorted(letter.task for letter in dead.find(queue="default")) == ["", "tests.apps.basic.add"]
    assert len(dead.find(newer_than_s=60)) == 3
    assert dead.find(older_than_s=60) == []
    assert len(dead.find(limit=2)) == 2
    unreadable = next(letter for letter in dead.find() if letter.message is None)
    assert unreadable.frame == b"\xffno message"


def test_a_dead_letter_is_got_by_its_token_or_by_the_id_of_its_task(app: FastQ, dead: DeadLetters) -> None:
    result = basic.add.delay(1, 2)
    give_up(app)
    letter = dead.get(result.id)
    assert dead.get(letter.token) == letter
    with pytest.raises(LookupError, match="no dead letter 'nothing'"):
        dead.get("nothing")


def test_a_requeued_letter_runs_and_its_new_end_counts(app: FastQ, dead: DeadLetters, start: Start) -> None:
    with start(unknown_task_grace_s=0.0):
        result = app.send_task("tests.apps.basic.nothing_like_it", ())
        with pytest.raises(DeadLettered):
            result.get(10)
    (letter,) = dead.find()
    assert "is not known to this worker" in letter.reason
    with start(unknown_task_grace_s=600.0):
        assert dead.requeue([letter]) == 1
        eventually(lambda: app.result(letter.id).state is State.PENDING)
    assert dead.find() == []


def test_an_edited_letter_runs_with_its_new_arguments_under_its_old_id(
    app: FastQ, dead: DeadLetters, start: Start
) -> None:
    result = basic.add.delay(1, 2)
    give_up(app)
    dead.edit(dead.get(result.id), args=[20, 22])
    assert dead.find() == []
    with start():
        assert app.result(result.id).get(10) == 42


def test_a_letter_can_move_to_another_queue(app: FastQ, dead: DeadLetters) -> None:
    result = basic.add.delay(1, b=2)
    give_up(app)
    dead.edit(dead.get(result.id), kwargs={"b": 3}, queue="mail")
    (queue,) = app.broker.queues()
    assert (queue.name, queue.ready) == ("mail", 1)
    give_up(app)
    message = dead.get(result.id).message
    assert message is not None
    assert dead.arguments(message) == ([1], {"b": 3})


def test_what_can_not_be_edited_stays(app: FastQ, dead: DeadLetters) -> None:
    app.broker.publish_frames("default", [b"\xffno message"])
    result = basic.add.delay(1, 2)
    give_up(app)
    unreadable = next(letter for letter in dead.find() if letter.message is None)
    with pytest.raises(ConfigurationError, match="is no message"):
        dead.edit(unreadable, args=[1])
    with pytest.raises(EncodingError):
        dead.edit(dead.get(result.id), args=[object()])
    assert len(dead.find()) == 2


def test_letters_are_dropped_and_exported_whole(app: FastQ, dead: DeadLetters) -> None:
    basic.add.delay(1, b=2)
    app.broker.publish_frames("default", [b"\xffno message"])
    give_up(app)
    readable, unreadable = sorted(dead.find(), key=lambda letter: letter.message is None)
    told = json.loads(json.dumps(dead.export(readable)))
    assert (told["args"], told["kwargs"], told["task"]) == ([1], {"b": 2}, "tests.apps.basic.add")
    assert dead.export(unreadable)["frame"] == "/25vIG1lc3NhZ2U="
    assert dead.drop([readable, unreadable]) == 2
    assert dead.find() == []


def test_many_letters_are_found_a_page_at_a_time(
    app: FastQ, dead: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastq.deadletters._PAGE", 2)
    monkeypatch.setattr("fastq.deadletters._LARGEST_PAGE", 4)
    ids = [basic.add.delay(n, n).id for n in range(11)]
    give_up(app)
    assert [letter.id for letter in dead.walk()] == ids
    assert [letter.id for letter in dead.find(limit=3)] == ids[:3]


def test_letters_may_be_put_back_and_dropped_while_they_are_walked_through(
    app: FastQ, dead: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastq.deadletters._PAGE", 2)
    monkeypatch.setattr("fastq.deadletters._LARGEST_PAGE", 2)
    monkeypatch.setattr("fastq.deadletters._AT_ONCE", 3)
    for n in range(10):
        basic.add.delay(n, n)
        basic.echo.delay(n)
    give_up(app)
    assert dead.requeue(dead.walk(task="*.add")) == 10
    assert dead.drop(dead.walk(task="*.echo")) == 10
    assert dead.find() == []
    assert app.broker.depth("default") == 10


def test_letters_that_die_again_while_they_are_put_back_are_not_put_back_once_more(
    app: FastQ, dead: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastq.deadletters._PAGE", 2)
    monkeypatch.setattr("fastq.deadletters._LATER_US", -1)
    monkeypatch.setattr("fastq.deadletters._AT_ONCE", 1)
    for n in range(3):
        basic.add.delay(n, n)
    give_up(app)
    eventually(lambda: len(dead.find()) == 3)
    put_back = 0
    for letter in dead.walk():
        put_back += dead.requeue([letter])
        give_up(app, "as before")
    assert put_back == 3


def test_letters_that_have_expired_are_deleted_by_workers(
    app: FastQ, dead: DeadLetters, start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("fastq.worker.retention._FIRST_S", 0.05)
    monkeypatch.setattr("fastq.worker.retention._EVERY_S", 0.05)
    ids = [basic.add.delay(n, n).id for n in range(3)]
    give_up(app)
    with start(dead_letters_expire_s=0.0, dead_letters_max=1):
        eventually(lambda: [letter.id for letter in dead.find()] == ids[2:])
    with start(dead_letters_expire_s=0.2):
        eventually(lambda: dead.find() == [])
    assert "2 dead letters of 'default' were too old, or too many, and are deleted" in caplog.text


def test_by_default_letters_are_kept_for_long(app: FastQ, dead: DeadLetters, start: Start) -> None:
    assert app.settings.dead_letters_expire_s == 180 * 86_400
    assert app.settings.dead_letters_max == 0


# -- the command ------------------------------------------------------------------------------------


@pytest.mark.processes
def test_the_command_lists_shows_edits_requeues_and_drops(app: FastQ, tmp_path: Path) -> None:
    where = ("--broker", app.settings.broker)
    ids = [basic.add.delay(n, n).id for n in range(3)]
    give_up(app)

    listed = fastq("dead", "list", *where, folder=tmp_path)
    assert listed.returncode == 0, listed.stderr
    assert listed.stdout.count("tests.apps.basic.add") == 3
    assert "nobody wants it" in listed.stdout
    shown = fastq("dead", "show", ids[0], *where, folder=tmp_path)
    assert "[0, 0]" in shown.stdout
    exported = fastq("dead", "export", "-t", "tests.*", *where, folder=tmp_path)
    assert [json.loads(line)["id"] for line in exported.stdout.splitlines()] == ids

    assert fastq("dead", "edit", ids[0], "--args", "[5, 5]", *where, folder=tmp_path).returncode == 0
    assert fastq("dead", "requeue", ids[1], *where, folder=tmp_path).stdout == "1 dead letter put back\n"
    assert app.broker.depth("default") == 2
    refused = fastq("dead", "drop", "--all", *where, folder=tmp_path)
    assert refused.returncode == 2
    assert "nobody can be asked" in refused.stderr
    assert fastq("dead", "drop", "--all", "-r", "WANTS", "--yes", *where, folder=tmp_path).stdout == (
        "1 dead letter deleted\n"
    )
    assert json.loads(fastq("dead", "list", "--json", *where, folder=tmp_path).stdout or "null") is None


@pytest.mark.processes
def test_a_reason_of_many_lines_is_shown_whole_and_listed_by_its_first(app: FastQ, tmp_path: Path) -> None:
    where = ("--broker", app.settings.broker)
    result = basic.add.delay(1, 2)
    give_up(app, "its process was killed\nFatal Python error\n  File \x1b[2J")
    shown = fastq("dead", "show", result.id, *where, folder=tmp_path).stdout.splitlines()
    first = next(at for at, line in enumerate(shown) if line.startswith("reason"))
    assert [line.split()[0] for line in shown[first + 1 : first + 3]] == ["Fatal", "File"]
    assert all(line.startswith("  ") and line.isprintable() for line in shown[first + 1 : first + 3])
    listed = fastq("dead", "list", *where, folder=tmp_path).stdout
    assert "its process was killed" in listed
    assert "Fatal" not in listed


@pytest.mark.processes
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("requeue",), "Which ones"),
        (("requeue", "x", "--all"), "not both"),
        (("show", "nothing"), "There is no dead letter 'nothing'"),
        (("list", "--older", "soon"), "it takes an age such as"),
        (("edit", "x"), "Nothing is to be changed"),
        (("edit", "x", "--args", "{}"), "takes an array"),
        (("edit", "x", "--args", "["), "is not JSON"),
        (("list", "-q", "a b"), "is not a queue name"),
    ],
)
def test_a_wrong_command_says_what_is_wrong(app: FastQ, tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    ended = fastq("dead", *arguments, "--broker", app.settings.broker, folder=tmp_path)
    assert ended.returncode in (1, 2)
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr

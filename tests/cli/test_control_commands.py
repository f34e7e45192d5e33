"""The commands that ask workers and tell them what to do, and those that revoke and pause."""

import contextlib
import json
import os
import pty
import select
import signal
import sqlite3
import subprocess
import time
import uuid
from pathlib import Path

import pytest

from tests.cli.terminal import SHOP, at_terminal, client, command, environment, fastq, worker
from tests.ledger import eventually


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(SHOP)
    return tmp_path


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory):
    """A folder with a worker that stays for all tests of this module."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "shop.py").write_text(SHOP)
    with worker("-Q", "default,mail", "--name", "bakery", "-E", folder=folder):
        yield folder


def send(folder: Path, task: str, *args: object, **options: object) -> str:
    with client(folder) as app:
        return app.send_task(task, args, **options).id


def ends(folder: Path, id: str) -> str:
    """Return the state in which a task ends."""
    with client(folder) as app:
        eventually(app.result(id).ready)
        return app.result(id).state.value


# -- inspect and control --------------------------------------------------------------------------


def test_what_runs_can_be_inspected_and_revoked(served):
    id = send(served, "shop.nap", 600)
    with client(served) as app:
        eventually(lambda: app.control.inspect().active().get("bakery"))
    shown = fastq("inspect", "active", folder=served).stdout.splitlines()
    assert shown[:2] == ["", "bakery"]
    assert [line.split()[:3] for line in shown[4:]] == [["shop.nap", id, "default"]]
    (task,) = json.loads(fastq("inspect", "active", "--json", "-d", "bakery", folder=served).stdout)["bakery"]
    assert (task["id"], task["task"], task["attempt"]) == (id, "shop.nap", 1)
    narrow = at_terminal("inspect", "active", folder=served, columns=60)
    assert sum(id in line for line in narrow) == 1, "an id is never broken: people copy it"
    assert fastq("revoke", id, "--terminate", folder=served).stdout == "Revoked: 1 task\n"
    assert ends(served, id) == "REVOKED"
    assert fastq("inspect", "active", folder=served).stdout == "\nbakery: none\n"


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("ping", "bakery: pong"),
        ("registered", "shop.relay"),
        ("stats", "default, mail"),
        ("scheduled", "mail"),
        ("reserved", "bakery: none"),
    ],
)
def test_a_question_is_answered_in_words_and_as_json(served, question, words):
    assert words in fastq("inspect", question, folder=served).stdout
    assert list(json.loads(fastq("inspect", question, "--json", folder=served).stdout)) == ["bakery"]


def test_workers_serve_what_they_are_told(served):
    assert fastq("control", "add-consumer", "attic", folder=served).stdout == "bakery: serves default, mail, attic\n"
    assert ends(served, send(served, "shop.add", 1, queue="attic")) == "SUCCESS"
    told = fastq("control", "cancel-consumer", "attic", "--json", folder=served).stdout
    assert json.loads(told) == {"bakery": ["default", "mail"]}
    failed = fastq("control", "cancel-consumer", "atic", folder=served)
    assert failed.returncode == 1
    assert "bakery answers: The queue 'atic' is not served here" in failed.stderr


def test_the_rate_of_a_task_can_be_changed(served):
    assert fastq("control", "rate-limit", "shop.say", "5/s", folder=served).stdout == "shop.say starts at 5/s\n"
    assert fastq("control", "rate-limit", "shop.say", "7", folder=served).stdout == "shop.say starts at 7/s\n"
    lifted = fastq("control", "rate-limit", "shop.say", "declared", folder=served)
    assert lifted.stdout == "shop.say starts as it was declared\n"
    wrong = fastq("control", "rate-limit", "shop.say", "often", folder=served)
    assert (wrong.returncode, "it takes a number" in wrong.stderr) == (2, True)


def test_a_worker_that_is_not_there_is_an_error_that_names_the_right_one(served):
    ended = fastq("inspect", "ping", "-d", "bakrey", folder=served)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "Error: There is no worker 'bakrey': did you mean 'bakery'?\n"


def test_where_no_worker_is_nobody_answers(folder):
    ended = fastq("inspect", "ping", folder=folder)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "Error: No worker answers at sqlite:///fastq.db: there is none\n"
    assert fastq("control", "shutdown", "--json", folder=folder).stdout == "{}\n"


def stopped_without_lock(pid: int, database: Path) -> bool:
    """Stop a process; if that was while it held the lock of a database, let it go on and return False."""
    os.kill(pid, signal.SIGSTOP)
    with contextlib.closing(sqlite3.connect(database, timeout=0, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
        except sqlite3.OperationalError:
            os.kill(pid, signal.SIGCONT)
            return False
    return True


def test_a_worker_that_is_there_and_silent_is_named(folder):
    with worker("--name", "one", folder=folder) as running:
        eventually(lambda: stopped_without_lock(running.pid, folder / "fastq.db"))
        try:
            ended = fastq("inspect", "ping", "--timeout", "0.3", folder=folder)
        finally:
            os.kill(running.pid, signal.SIGCONT)
        assert (ended.returncode, ended.stdout) == (1, "")
        assert ended.stderr.splitlines() == [
            "one did not answer within 0.3 s",
            "Error: No worker answers at sqlite:///fastq.db: 1 was asked",
        ]


def test_a_worker_can_be_shut_down(folder):
    with worker("--name", "one", folder=folder) as running:
        assert fastq("control", "shutdown", folder=folder).stdout == "one: stopping\n"
        assert running.process.wait(20) == 0


# -- revoke, pause and resume ---------------------------------------------------------------------


def test_tasks_are_revoked_where_no_worker_is(folder):
    ids = [send(folder, "shop.nap", 600), send(folder, "shop.nap", 600)]
    late = send(folder, "shop.nap", 600, headers={"tenant": 7})
    assert fastq("revoke", *ids, "--header", "tenant=7", folder=folder).stdout == (
        "Revoked: 2 tasks, all tasks with tenant=7\n"
    )
    with worker(folder=folder):
        assert [ends(folder, id) for id in (*ids, late)] == ["REVOKED"] * 3


def test_what_can_not_be_revoked_is_said(folder):
    assert "by their ids, or by --header" in fastq("revoke", folder=folder).stderr
    assert "'17' is not a task id" in fastq("revoke", "17", folder=folder).stderr
    assert "has not the form name=value" in fastq("revoke", "--header", "tenant", folder=folder).stderr
    wrong = fastq("revoke", str(uuid.uuid4()), "--expires", "0", folder=folder)
    assert (wrong.returncode, "expires_s is 0" in wrong.stderr) == (2, True)


def test_a_queue_is_paused_and_resumed(served):
    assert fastq("pause", "mail", folder=served).stdout == "mail: paused\n"
    id = send(served, "shop.post", queue="mail")
    assert ends(served, send(served, "shop.add", 1)) == "SUCCESS"
    shown = fastq("status", folder=served).stdout
    (row,) = [line.split() for line in shown.splitlines() if line.startswith("mail ")]
    assert row[:5] == ["mail", "1", "0", "0", "0"]
    assert "paused for" in shown
    assert "mail" in json.loads(fastq("status", "--json", folder=served).stdout)["paused"]
    assert fastq("resume", "mail", folder=served).stdout == "mail: resumed\n"
    assert ends(served, id) == "SUCCESS"


def test_a_misspelt_queue_is_neither_paused_nor_resumed(served):
    wrong = fastq("pause", "mial", folder=served)
    assert (wrong.returncode, "did you mean 'mail'? (to pause it all the same" in wrong.stderr) == (2, True)
    assert fastq("pause", "mial", "--force", folder=served).returncode == 0
    assert fastq("resume", "mial", folder=served).returncode == 0
    again = fastq("resume", "mial", folder=served)
    assert (again.returncode, "is not paused" in again.stderr) == (2, True)


# -- events ---------------------------------------------------------------------------------------


def test_events_are_json_lines_in_a_pipe(served):
    id = send(served, "shop.fail")
    assert ends(served, id) == "FAILURE"
    eventually(
        lambda: "task-failed" in fastq("events", "--id", id, "--from-start", "--timeout", "1", folder=served).stdout
    )
    shown = fastq("events", "--id", id, "-k", "failed", "--from-start", "--timeout", "1", folder=served).stdout
    (event,) = map(json.loads, shown.splitlines())
    assert (event["kind"], event["worker"], event["id"]) == ("task-failed", "bakery", id)
    assert event["detail"] == "ValueError: no luck"


def test_events_are_coloured_lines_at_a_terminal(served):
    id = send(served, "shop.fail")
    ours, theirs = pty.openpty()
    settings = {name: value for name, value in environment().items() if name != "NO_COLOR"}
    with subprocess.Popen(
        command("events", "--from-start", "--id", id, "-k", "failed"), cwd=served, env=settings, stdin=theirs,
        stdout=theirs, stderr=theirs,
    ) as process:  # fmt: skip
        shown, give_up = b"", time.monotonic() + 20
        while b"no luck" not in shown and time.monotonic() < give_up:
            if select.select([ours], [], [], 0.1)[0]:
                shown += os.read(ours, 4096)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    os.close(theirs)
    os.close(ours)
    first, line, *_ = shown.decode().splitlines()
    assert "that have the setting events" in first
    assert f"\x1b[31mfailed   \x1b[0m shop.fail[{id}] in " in line
    assert line.endswith("\x1b[31mValueError: no luck\x1b[0m")


def test_a_kind_of_events_that_there_is_not_is_an_error(folder):
    ended = fastq("events", "-k", "faild", folder=folder)
    assert (ended.returncode, "There are no events 'faild'" in ended.stderr) == (2, True)

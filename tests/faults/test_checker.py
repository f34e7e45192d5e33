"""The checker finds what was lost or done twice, and nothing else; the audit finds what was left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastq import FastQ
from fastq.errors import BrokerUnavailable
from fastq.testing.faults import Audit, Ledger, Line, Proxy, Verdict, alive, judge, table
from tests.apps import basic
from tests.ledger import eventually


def written(text: str) -> list[Line]:
    """Return lines of ``id word pid``, by commas."""
    rows = (row.split() for row in text.split(","))
    return [Line(id, word, int(pid)) for id, word, pid in rows]


SENT = "a attempted 1, a accepted 1, b attempted 1, b accepted 1"
ALL_WELL = f"{SENT}, a start 5, a end 5, b start 6, b end 6"


def violations(text: str, **more: object) -> list[str]:
    """Return the invariants that are broken."""
    return [each.partition(":")[0] for each in judge(written(text), **more).violations]


def test_where_all_is_well_there_is_nothing_to_say() -> None:
    verdict = judge(written(ALL_WELL), killed=())
    assert verdict.ok
    assert verdict == Verdict(2, 2, 2, 2, 0, 0, 0)


def test_a_late_task_that_did_not_end_is_lost() -> None:
    assert violations(f"{SENT}, a start 5, a end 5, b start 6") == ["I1"]
    assert violations(f"{SENT}, a start 5, a end 5, b start 6", dead=["b"]) == []


def test_what_is_still_queued_is_not_lost_but_left() -> None:
    verdict = judge(written(f"{SENT}, a start 5, a end 5"), left=["b"])
    assert (verdict.lost, [each[:2] for each in verdict.violations]) == (0, ["I6"])


def test_an_early_task_that_began_or_whose_caller_is_told_is_accounted_for() -> None:
    text = f"{SENT}, a start 5"
    assert violations(text, ack="early") == ["I1"]
    assert violations(text, ack="early", told=["b"]) == []
    assert violations(text, ack="early", may_lose=1) == []
    assert judge(written(text), ack="early", told=["b"]).lost == 2


def test_what_was_attempted_and_not_accepted_may_run_or_not() -> None:
    assert violations(f"{ALL_WELL}, c attempted 1") == []
    assert violations(f"{ALL_WELL}, c attempted 1, c start 5, c end 5") == []


def test_what_nobody_sent_must_not_run() -> None:
    assert violations(f"{ALL_WELL}, z start 5, z end 5") == ["I2"]


def test_an_early_task_begins_once() -> None:
    assert violations(f"{ALL_WELL}, a start 6", ack="early") == ["I3"]


def test_a_late_task_begins_again_only_after_a_kill_and_not_for_ever() -> None:
    assert violations(f"{ALL_WELL}, a start 7, a end 7", killed=[]) == ["I4"]
    assert violations(f"{ALL_WELL}, a start 7, a end 7", killed=[5]) == []
    assert violations(f"{ALL_WELL}, a start 7, a start 8", killed=[5, 7, 8], max_deliveries=2) == ["I4"]


def test_an_end_is_never_replaced() -> None:
    assert violations(ALL_WELL, ends_before={"a": 1}, ends_after={"a": 1, "b": 2}) == []
    assert violations(ALL_WELL, ends_before={"a": 1}, ends_after={"a": 2}) == ["I5"]
    assert violations(ALL_WELL, ends_before={"a": 1}, ends_after={}) == ["I5"]


def test_what_was_found_elsewhere_is_passed_on() -> None:
    assert violations(ALL_WELL, behind=["process 7"], misbehaved=["it exited with 1"]) == ["I7", "I8"]


def test_verdicts_are_shown_as_a_table() -> None:
    shown = table([("redis", judge(written(ALL_WELL))), ("amqp", judge(written(SENT)))])
    assert shown[0].split() == ["attempted", "accepted", "started", "finished", "lost", "duplicated", "dead-lettered"]
    assert shown[1].split() == ["redis", "2", "2", "2", "2", "0", "0", "0"]
    assert shown[2].split()[:8] == ["amqp", "2", "2", "0", "0", "2", "0", "0"]
    assert shown[2].endswith("I1: 2 lost: a, b")


# -- the ledger -----------------------------------------------------------------------------------------


def test_a_producer_notes_what_it_attempts_and_what_was_accepted(app: FastQ, ledger: Ledger) -> None:
    assert ledger.lines() == []
    results = ledger.send(basic.add, [(1, 2), (3, 4)])
    words = [(line.id, line.word, line.pid) for line in ledger.lines()]
    ids = [result.id for result in results]
    assert words == [(id, word, os.getpid()) for word in ("attempted", "accepted") for id in ids]
    assert app.broker.depth("default") == 2


def test_what_was_not_accepted_is_not_noted_as_such(
    app: FastQ, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise BrokerUnavailable("it is told to")

    monkeypatch.setattr(app.broker, "publish", refuse)
    with pytest.raises(BrokerUnavailable):
        ledger.send(basic.add, [(1, 2)])
    assert [line.word for line in ledger.lines()] == ["attempted"]


def test_lines_of_many_processes_do_not_mix(ledger: Ledger) -> None:
    ids = [str(uuid.uuid4()) for _ in range(50)]
    pids = []
    for _ in range(4):
        pids.append(os.fork())
        if not pids[-1]:
            for _ in range(50):
                ledger.write("start", ids)
            os._exit(0)
    for pid in pids:
        os.waitpid(pid, 0)
    assert ledger.starts() == dict.fromkeys(ids, 200)


# -- the audit ------------------------------------------------------------------------------------------


def test_processes_that_outlive_their_parent_are_found(tmp_path: Path) -> None:
    audit = Audit(tmp_path)
    script = "import subprocess, sys; subprocess.Popen(['sleep', '60']); print(flush=True); sys.stdin.read()"
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    with parent:
        parent.stdout.readline()
        audit.include(parent.pid)
        (tmp_path / "notes").touch()
        parent.kill()
    left = audit.left()
    assert [each.rpartition(" ")[0].rpartition(" ")[0] for each in left if each.startswith("process")] == ["process"]
    assert "file notes" in left
    assert "file notes" not in audit.left("notes")
    os.killpg(parent.pid, signal.SIGKILL)
    eventually(lambda: audit.left("notes") == [])


def test_zombies_are_found() -> None:
    audit = Audit()
    pid = os.fork()
    if not pid:
        os._exit(0)
    audit._pids = {pid}
    eventually(lambda: audit.zombies() == [pid])
    assert not alive(pid)
    os.waitpid(pid, 0)
    assert audit.zombies() == []


# -- the proxy ------------------------------------------------------------------------------------------


@pytest.fixture
def echo() -> Iterator[Proxy]:
    """A proxy before a server that sends back what it gets."""
    listener = socket.create_server(("127.0.0.1", 0))
    clients: list[socket.socket] = []

    def serve(client: socket.socket) -> None:
        try:
            while data := client.recv(65_536):
                client.sendall(data)
        except OSError:
            pass

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            clients.append(client)
            threads.append(threading.Thread(target=serve, args=(client,)))
            threads[-1].start()

    threads = [threading.Thread(target=accept)]
    threads[0].start()
    proxy = Proxy(listener.getsockname()[1])
    yield proxy
    proxy.close()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    for thread in threads:
        thread.join()
    for client in clients:
        client.close()


def test_a_proxy_passes_on_what_it_gets_in_pieces_of_any_size(echo: Proxy) -> None:
    echo.piece = 1
    with socket.create_connection(("127.0.0.1", echo.port)) as client:
        client.sendall(b"hello")
        got = b""
        while len(got) < 5:
            got += client.recv(10)
        assert got == b"hello"


def test_a_proxy_loses_the_answer_to_what_it_waits_for_and_no_other(echo: Proxy) -> None:
    seen = threading.Event()
    with socket.create_connection(("127.0.0.1", echo.port)) as client:
        echo.when_sent(b"bye", seen.set)
        client.sendall(b"hello")
        assert client.recv(10) == b"hello"
        client.sendall(b"good bye")
        assert client.recv(10) == b""
        assert seen.wait(10)
    with socket.create_connection(("127.0.0.1", echo.port)) as client:
        client.sendall(b"good bye")
        assert client.recv(10) == b"good bye"


def test_a_proxy_cuts_the_connections_that_there_are(echo: Proxy) -> None:
    with socket.create_connection(("127.0.0.1", echo.port)) as client:
        client.sendall(b"hello")
        assert client.recv(10) == b"hello"
        echo.cut()
        assert client.recv(10) == b""

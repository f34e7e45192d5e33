"""What a service manager is told, by the protocol of sd_notify."""

import os
import signal
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from fastq.worker.systemd import ServiceManager
from tests.cli.terminal import SHOP, worker
from tests.ledger import children_of, eventually


class Manager:
    """Listens as systemd does."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(30)
        self._socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)

    def heard(self) -> dict[str, str]:
        """Return the next thing that is said."""
        return dict(line.split("=", 1) for line in self._socket.recv(4096).decode().split("\n"))

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["a path", "an abstract name"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    address = str(tmp_path / "notify") if request.param == "a path" else f"@fastq-test-{uuid.uuid4().hex}"
    with closing(Manager(address)) as manager:
        yield manager


def test_it_is_told_what_happens(manager: Manager) -> None:
    teller = ServiceManager(manager.address)
    teller.ready("2 children")
    assert manager.heard() == {"READY": "1", "STATUS": "2 children"}
    teller.stopping("Stopping", 31.5)
    assert manager.heard() == {"STOPPING": "1", "EXTEND_TIMEOUT_USEC": "31500000", "STATUS": "Stopping"}


def test_signs_of_life_are_given_no_oftener_than_they_are_wanted(manager: Manager) -> None:
    teller = ServiceManager(manager.address, 1000.0)
    for _ in range(100):
        teller.alive()
    teller.ready("now")
    assert [manager.heard(), manager.heard()["READY"]] == [{"WATCHDOG": "1"}, "1"]


def test_what_is_said_in_the_environment_is_for_this_process_alone() -> None:
    environment = {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid()), "A": "b"}
    assert ServiceManager.of_this_process(environment).every_s == 1.5
    assert environment == {"A": "b"}


@pytest.mark.parametrize(
    "environment", [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "100", "WATCHDOG_PID": "1"}]
)
def test_who_does_not_ask_for_signs_of_life_gets_none(environment: dict[str, str], manager: Manager) -> None:
    teller = ServiceManager.of_this_process({**environment, "NOTIFY_SOCKET": manager.address})
    assert teller.every_s == float("inf")


def test_a_manager_that_is_gone_or_never_was_is_no_reason_to_fail(caplog: pytest.LogCaptureFixture) -> None:
    ServiceManager().ready("nobody hears it")
    ServiceManager("/nowhere/notify").ready("nobody hears it")
    assert "/nowhere" not in caplog.text
    assert "can't be told READY=1" in caplog.text


def test_a_worker_tells_its_manager_that_it_is_ready_alive_and_stopping(manager: Manager, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    said = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "400000"}
    with worker(folder=tmp_path, settings=said) as started:
        ready = manager.heard()
        assert (ready["READY"], ready["STATUS"]) == ("1", "2 children of shop for default")
        assert [manager.heard() for _ in range(3)] == [{"WATCHDOG": "1"}] * 3
        (template,) = children_of(started.pid)
        assert b"NOTIFY_SOCKET" not in Path(f"/proc/{template}/environ").read_bytes()
        started.process.send_signal(signal.SIGTERM)
        give_up = time.monotonic() + 30
        while "STOPPING" not in (heard := manager.heard()):
            assert time.monotonic() < give_up
        assert int(heard["EXTEND_TIMEOUT_USEC"]) > 30e6
        eventually(lambda: started.process.poll() == 0)

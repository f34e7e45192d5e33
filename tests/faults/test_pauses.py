"""Workers that are stopped for longer than their lease, and go on when others have taken over."""

import os
import signal

from fastq import State
from tests.apps import basic
from tests.hosts import Host
from tests.ledger import Ledger, eventually


def test_a_worker_that_slept_past_its_lease_changes_nothing_any_more_and_works_on(host: Host, ledger: Ledger) -> None:
    """Row 7."""
    host.lease_s = 0.6
    sleeper = host.start_worker()
    result = basic.noted.delay(0.5)
    eventually(ledger.starts)
    sleeper.send_signal(signal.SIGSTOP)
    other = host.start_worker()
    assert result.get(20) in host.pool_children(other)
    ended_at = result.finished_at
    other.terminate()
    assert other.wait(20) == 0
    sleeper.send_signal(signal.SIGCONT)
    assert basic.add.delay(4, 4).get(20) == 8
    assert (result.state, result.finished_at) == (State.SUCCESS, ended_at)
    assert ledger.starts() == {result.id: 2}
    assert basic.app.broker.depth("default") == 0
    assert "lease of 0.6 s was lost" in host.log.read_text()


def test_a_stopped_child_keeps_no_other_work_waiting(host: Host, ledger: Ledger) -> None:
    worker = host.start_worker()
    eventually(lambda: len(host.pool_children(worker)) == 3)  # two, and one with a loop
    stopped = host.pool_children(worker)[0]
    os.kill(stopped, signal.SIGSTOP)
    try:
        results = [basic.add.delay(n, n) for n in range(50)]
        assert [result.get(20) for result in results] == [2 * n for n in range(50)]
    finally:
        os.kill(stopped, signal.SIGCONT)

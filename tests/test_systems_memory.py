from __future__ import annotations

import os

import pytest

from fastq.backends import open_backend
from fastq.brokers import open_broker
from fastq.errors import BackendUnavailable, BrokerUnavailable
from fastq.systems.memory import MemorySystem
from fastq.testing.backends import success
from fastq.testing.broker_case import call


def test_a_name_is_one_system_and_another_name_another():
    one, same, other = (open_broker(f"memory://{name}") for name in ("here", "here", "there"))
    assert one.system is same.system
    assert one.system is open_backend("memory://here", 60.0).system
    assert one.system is not other.system
    one.publish([call()])
    assert (same.depth("q"), other.depth("q")) == (1, 0)
    one.purge("q")


def test_a_forked_child_is_refused_instead_of_losing_messages():
    broker, backend = open_broker("memory://forked"), open_backend("memory://forked", 60.0)
    broker.system.arrived.acquire()  # as another thread might, in the moment of the fork
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            with pytest.raises(BrokerUnavailable, match="use sqlite"):
                broker.publish([call()])
            with pytest.raises(BackendUnavailable):
                backend.store([success()])
            status = 0
        finally:
            os._exit(status)
    broker.system.arrived.release()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_expired_outcomes_do_not_pile_up():
    now_us = 1_000_000
    system = MemorySystem(lambda: now_us)
    for _ in range(3):
        system.store([success(group=b"g" * 16) for _ in range(1000)], expires_s=1.0)
        now_us += 2_000_000
    assert len(system.results._kept) <= 1000
    assert len(system.results._in_group) <= 1

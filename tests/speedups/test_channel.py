"""The channel's contract, on both bodies."""

from __future__ import annotations

import inspect
import os
import select
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from .crew import Crew, body

CrewMaker = Callable[..., Crew]

SIZES = [0, 1, 7, 8, 4097, 16_383, 16_384, 16_385, 59_999, 60_000, 60_001, 1_000_000]


def hold(seat: Any) -> None:
    """Take one payload and never end it."""
    seat.get()
    signal.pause()


# -- there and back ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_a_payload_of_any_size_comes_back(crew: CrewMaker, size: int) -> None:
    payload = os.urandom(size)
    pool = crew()
    assert pool.channel.put(7, payload)
    [(_, ticket, back)] = pool.collect(1)
    assert (ticket, back) == (7, payload[::-1])


def test_fifty_megabytes_go_both_ways_and_their_memory_is_given_back(crew: CrewMaker) -> None:
    """Row 42."""
    pool, payload = crew(), os.urandom(50_000_000)
    for ticket in (1, 2, 3):
        assert pool.channel.put(ticket, payload)
    assert {back for _, _, back in pool.collect(3, 60)} == {payload[::-1]}
    blocks = sum(os.fstat(fd).st_blocks * 512 for fd in pool.channel.fds())
    assert blocks < 20_000_000


def test_every_payload_comes_back_once(crew: CrewMaker) -> None:
    pool = crew(3, 50)
    back: list[int] = []
    ticket = 1
    while len(back) < 5000:
        while ticket <= 5000 and pool.channel.put(ticket, b"%d" % ticket):
            ticket += 1
        assert pool.wait()
        for _, number, payload in pool.channel.take():
            assert payload == (b"%d" % number)[::-1]
            back.append(number)
    assert sorted(back) == list(range(1, 5001))


def test_one_child_takes_payloads_in_the_order_in_which_they_were_put(crew: CrewMaker) -> None:
    pool = crew(1, 200)
    for ticket in range(200, 0, -1):
        assert pool.channel.put(ticket, b"x")
    order = [ticket for _, ticket, _ in pool.collect(200)]
    assert set(order) == set(range(1, 201))


def test_the_largest_ticket_comes_back(crew: CrewMaker) -> None:
    pool = crew()
    pool.channel.put(2**64 - 1, b"x")
    assert pool.collect(1)[0][1] == 2**64 - 1


def test_nothing_waits_behind_a_long_task_while_a_child_is_idle(crew: CrewMaker) -> None:
    def run(seat: Any) -> None:
        while True:
            ticket, payload = seat.get()
            if payload == b"long":
                signal.pause()
            seat.end(ticket, payload)

    pool = crew(3, 100, run=run)
    pool.channel.put(1, b"long")
    pool.channel.put(2, b"long")
    pool.until_running(1, 2)
    for ticket in range(3, 53):
        assert pool.channel.put(ticket, b"short")
    assert {ticket for _, ticket, _ in pool.collect(50)} == set(range(3, 53))


# -- accounts ------------------------------------------------------------------------------------------


def test_a_full_channel_refuses_and_has_room_again_when_something_ended(crew: CrewMaker) -> None:
    """Row 50."""
    pool = crew(1, 3)
    os.kill(pool.pids[0], signal.SIGSTOP)
    assert [pool.channel.put(ticket, b"x") for ticket in range(1, 6)] == [True, True, True, False, False]
    os.kill(pool.pids[0], signal.SIGCONT)
    pool.collect(3)
    assert pool.channel.put(4, b"x")
    pool.collect(1)


def test_what_waits_can_be_withdrawn_and_what_runs_can_not(crew: CrewMaker) -> None:
    pool = crew(1, 10, run=hold)
    pool.channel.put(9, b"x")
    pool.until_running(9)
    for ticket in (5, 4, 6):
        pool.channel.put(ticket, b"x")
    assert pool.channel.withdraw() == [5, 4, 6]
    assert pool.channel.withdraw() == []
    assert [ticket for _, ticket, _ in pool.channel.running()] == [9]


def test_withdrawn_tickets_can_be_put_again_and_again(crew: CrewMaker) -> None:
    pool = crew(1, 4)
    os.kill(pool.pids[0], signal.SIGSTOP)
    for _ in range(100):
        assert all(pool.channel.put(ticket, b"x") for ticket in (1, 2, 3, 4))
        assert pool.channel.withdraw() == [1, 2, 3, 4]
    assert pool.channel.put(5, b"x")
    os.kill(pool.pids[0], signal.SIGCONT)
    assert [ticket for _, ticket, _ in pool.collect(1)] == [5]


def test_running_tells_child_ticket_and_since(crew: CrewMaker) -> None:
    pool = crew(2, 10, run=hold)
    before = time.monotonic()
    pool.channel.put(1, b"x")
    pool.channel.put(2, b"x")
    pool.until_running(1, 2)
    running = pool.channel.running()
    assert [child for child, _, _ in running] == [0, 1]
    assert all(before <= since <= time.monotonic() for _, _, since in running)


def test_a_dead_child_leaves_exactly_what_it_ran_in_doubt(crew: CrewMaker) -> None:
    pool = crew(1, 10, run=hold)
    pool.channel.put(1, b"x")
    pool.until_running(1)
    for ticket in (2, 3):
        pool.channel.put(ticket, b"x")
    pool.kill(0)
    burial = pool.channel.bury(0)
    waiting = pool.channel.withdraw()
    assert burial.running == 1
    assert burial.ended == []
    assert sorted(burial.unbegun + waiting) == [2, 3]


def test_a_dead_child_leaves_what_it_ended(crew: CrewMaker) -> None:
    def end_one(seat: Any) -> None:
        ticket, payload = seat.get()
        seat.end(ticket, payload)
        signal.pause()

    pool = crew(1, 10, run=end_one)
    pool.channel.put(1, b"x" * 100_000)
    assert pool.wait()
    pool.kill(0)
    burial = pool.channel.bury(0)
    assert [ticket for _, ticket, _ in burial.ended] == [1]
    assert (burial.running, burial.unbegun) == (0, [])
    assert pool.channel.take() == []


def test_an_idle_child_dies_without_a_trace(crew: CrewMaker) -> None:
    pool = crew(2)
    pool.channel.put(1, b"x")
    pool.collect(1)
    pool.kill(0)
    assert pool.channel.bury(0) == ([], 0, [])
    pool.channel.put(2, b"x")
    assert [ticket for _, ticket, _ in pool.collect(1)] == [2]


def test_children_are_replaced_on_the_same_seat_any_number_of_times(crew: CrewMaker) -> None:
    pool = crew(1, 10)
    for ticket in range(1, 31):
        pool.kill(0)
        assert pool.channel.bury(0) == ([], 0, [])
        pool.fork(0)
        pool.channel.put(ticket, b"x")
        assert [number for _, number, _ in pool.collect(1)] == [ticket]


def test_rebuilding_tells_what_became_of_everything(crew: CrewMaker) -> None:
    pool = crew(1, 10, run=hold)
    pool.channel.put(1, b"x")
    pool.until_running(1)
    pool.channel.put(2, b"y")
    pool.kill(0)
    assert pool.channel.rebuild() == ([], [1], [2])
    pool.fork(0, run=lambda seat: seat.end(*seat.get()))
    pool.channel.put(2, b"y")
    assert pool.collect(1) == [(0, 2, b"y")]


# -- waking and leaving ----------------------------------------------------------------------------------


def test_an_idle_child_costs_no_processor_time(crew: CrewMaker) -> None:
    pool = crew(1)
    pool.channel.put(1, b"x")
    pool.collect(1)

    def used() -> int:
        with open(f"/proc/{pool.pids[0]}/stat") as file:
            return sum(map(int, file.read().rpartition(")")[2].split()[11:13]))

    before = used()
    time.sleep(1.5)
    assert used() - before <= 1  # hundredths of a second


def test_getting_gives_up_after_the_timeout(crew: CrewMaker) -> None:
    def run(seat: Any) -> None:
        for timeout in (0, -1, 0.05):
            before = time.monotonic()
            assert seat.get(timeout) is None
            assert max(timeout, 0) <= time.monotonic() - before < 1
        os._exit(9)

    assert crew(1, 4, run=run).reap(0) == 9


def test_other_threads_run_while_a_child_waits(channels: ModuleType, crew: CrewMaker) -> None:
    def run(seat: Any) -> None:
        counted: list[int] = []
        threading.Thread(target=lambda: counted.extend(range(1000)), daemon=True).start()
        while True:
            ticket, _ = seat.get()
            seat.end(ticket, b"%d" % len(counted))

    pool = crew(1, 4, run=run)
    time.sleep(0.05)
    pool.channel.put(1, b"x")
    assert pool.collect(1)[0][2] == b"1000"


def test_a_signal_handler_runs_while_a_child_waits(crew: CrewMaker) -> None:
    def run(seat: Any) -> None:
        signal.signal(signal.SIGUSR1, lambda *_: os._exit(42))
        seat.end(*seat.get())
        seat.get()

    pool = crew(1, 4, run=run)
    pool.channel.put(1, b"x")
    pool.collect(1)
    os.kill(pool.pids[0], signal.SIGUSR1)
    assert pool.reap(0) == 42


def test_children_leave_when_the_channel_is_stopped_and_empty(crew: CrewMaker) -> None:
    pool = crew(2, 200)
    for ticket in range(1, 101):
        pool.channel.put(ticket, b"x")
    pool.channel.stop()
    assert not pool.channel.put(101, b"x")
    assert len(pool.collect(100)) == 100
    assert (pool.reap(0), pool.reap(1)) == (0, 0)


def test_a_child_leaves_when_the_parent_is_gone(channels: ModuleType) -> None:
    program = textwrap.dedent(
        f"""
        import os, sys
        from {channels.__name__} import Channel, Seat
        channel = Channel(1, 4)
        if not (pid := os.fork()):
            seat = Seat(channel.fds(), 0)
            keep = channel.fds()
            for fd in map(int, os.listdir("/proc/self/fd")):
                if fd > 2 and fd not in keep:
                    try: os.close(fd)
                    except OSError: pass
            try:
                seat.get()
            except EOFError:
                print("left", flush=True)
            os._exit(0)
        os._exit(0)
        """
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout == "left\n", done.stderr


# -- mistakes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("children", "capacity"), [(0, 1), (-1, 1), (1, 0), (4096, 1), (1, 65_536)])
def test_a_channel_of_an_impossible_size_is_refused(channels: ModuleType, children: int, capacity: int) -> None:
    with pytest.raises(ValueError, match="a channel has 1 to"):
        channels.Channel(children, capacity)


@pytest.mark.parametrize("ticket", [0, -1, 1 << 64])
def test_an_impossible_ticket_is_refused(channels: ModuleType, ticket: int) -> None:
    channel = channels.Channel(1, 1)
    with pytest.raises(ValueError, match="a ticket is"):
        channel.put(ticket, b"x")
    channel.close()


def test_an_impossible_child_is_refused(channels: ModuleType) -> None:
    channel = channels.Channel(2, 1)
    for child in (-1, 2):
        with pytest.raises(ValueError, match="there is no child"):
            channel.bury(child)
        with pytest.raises(ValueError, match="there is no child"):
            channels.Seat(channel.fds(), child)
    channel.close()


def test_a_closed_channel_says_so_and_may_be_closed_twice(channels: ModuleType) -> None:
    channel = channels.Channel(1, 1)
    channel.close()
    channel.close()
    channel.stop()
    for call in (lambda: channel.put(1, b"x"), channel.take, channel.withdraw, channel.running, channel.rebuild):
        with pytest.raises(OSError, match="closed"):
            call()
    with pytest.raises(OSError, match="closed"):
        channel.bury(0)


def test_a_child_has_one_payload_at_a_time(crew: CrewMaker) -> None:
    def run(seat: Any) -> None:
        ticket, _ = seat.get()
        said = []
        for call in (lambda: seat.end(ticket + 1, b""), lambda: seat.get(0), lambda: seat.end(0, b"")):
            try:
                call()
            except (ValueError, RuntimeError) as error:
                said.append(type(error).__name__)
        seat.end(ticket, " ".join(said).encode())
        try:
            seat.end(ticket, b"again")
        except ValueError:
            os._exit(7)

    pool = crew(1, 4, run=run)
    pool.channel.put(1, b"x")
    assert pool.collect(1)[0][2] == b"ValueError RuntimeError ValueError"
    assert pool.reap(0) == 7


def test_descriptors_of_something_else_are_refused(channels: ModuleType, tmp_path: Any) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"")
    with open(path, "rb") as file, pytest.raises((ValueError, OSError)):
        channels.Seat([file.fileno()] * (2 if channels.__name__.endswith("_c") else 3), 0)


def test_both_bodies_have_the_same_face() -> None:
    c, py = body("c", "channel"), body("py", "channel")
    for name in ("Channel", "Seat"):
        faces = [
            {
                method: str(inspect.signature(getattr(kind, method)))
                for method in dir(kind)
                if not method.startswith("_")
            }
            for kind in (getattr(c, name), getattr(py, name))
        ]
        assert faces[0].keys() == faces[1].keys()
        assert all(bare(faces[0][method]) == bare(faces[1][method]) for method in faces[0])
    for name in ("pack_call", "unpack_call", "pack_end", "unpack_end"):
        assert bare(str(inspect.signature(getattr(body("c", "frames"), name)))) == bare(
            str(inspect.signature(getattr(body("py", "frames"), name)))
        )


def bare(signature: str) -> list[str]:
    """The names and defaults of a signature, without its types."""
    inner = signature.rpartition(" -> ")[0] or signature
    return [part.partition(":")[0].partition("=")[0].strip() for part in inner.strip("()").split(",")]


def test_the_descriptor_is_quiet_while_nothing_has_ended(channels: ModuleType) -> None:
    channel = channels.Channel(1, 4)
    waiting = select.poll()
    waiting.register(channel.fileno(), select.POLLIN)
    assert waiting.poll(50) == []
    channel.close()

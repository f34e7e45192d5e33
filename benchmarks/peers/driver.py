"""Drive one contender, inside its own environment: ``python -m benchmarks.peers.driver NAME``.

Commands come as JSON lines on standard input, ``{"do": "start", "children": 2}``, and each is answered by one
line on standard output, ``{"value": ...}`` or ``{"error": "..."}``. Everything is bounded in time.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.peers import tally
from benchmarks.peers.peer import KEEP, Peer
from benchmarks.peers.processes import cpu_s, family, pss_mb, send_signal

ROOT = Path(__file__).parents[2]
BULK = 1000  # calls in one bulk
NAP_S = 0.5
SETTLING_S = 0.3  # for what a worker does after its last task; who is stopped within it may hold a lock


class Driver:
    """Owns the worker's processes. Each public method is a command, with the command's other members as arguments."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.roots: list[subprocess.Popen[bytes]] = []
        self.stop_inside: Callable[[], None] | None = None
        self.before = 0  # runs that were counted when the queue was last empty
        self.sent = 0
        self.last: Any = None

    # -- the worker's life ------------------------------------------------------------------------

    def start(self, children: int, limit_s: float) -> float:
        """Enqueue one call, start the worker, and return the seconds from its start until the call has run."""
        self.last = self.peer.send("same", 1)
        self.sent = 1
        began = time.perf_counter()
        self.launch(children)
        self.until_run(limit_s)
        return time.perf_counter() - began

    def launch(self, children: int) -> None:
        """Start the worker, and do not wait."""
        self.before = tally.count()
        self.sent = max(self.sent, 1)
        self.stop_inside = self.peer.start_inside(children)
        if self.stop_inside is not None:
            return
        with (tally.FOLDER / "worker.log").open("ab") as log:
            self.roots = [
                subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
                for command in self.peer.workers(children)
            ]

    def stop(self) -> None:
        """End the worker, kindly for five seconds."""
        everyone = self.everyone()
        send_signal(everyone, signal.SIGCONT)
        if self.stop_inside is not None:
            self.stop_inside()
        send_signal([root.pid for root in self.roots], signal.SIGTERM)
        self.reap(5)
        send_signal(everyone, signal.SIGKILL)
        self.reap(5)
        self.roots = []

    def kill(self) -> None:
        """End every process of the worker at once; a worker in this process only stops."""
        if self.stop_inside is not None:
            self.stop()
            self.stop_inside = None
        send_signal(self.everyone(), signal.SIGKILL)
        self.reap(5)
        self.roots = []

    def everyone(self) -> list[int]:
        """Return the worker's processes, without this one."""
        if self.stop_inside is not None:
            return family(os.getpid())[1:]
        return [pid for root in self.roots for pid in family(root.pid)]

    def reap(self, limit_s: float) -> None:
        until = time.monotonic() + limit_s
        for root in self.roots:
            with suppress(subprocess.TimeoutExpired):
                root.wait(max(until - time.monotonic(), 0.01))

    # -- sending and draining ---------------------------------------------------------------------

    def freeze(self) -> None:
        """Stop the worker's processes where they are, so that a queue can be filled beside a warm worker."""
        time.sleep(SETTLING_S)
        self.before = tally.count()
        self.sent = 0
        send_signal(self.everyone(), signal.SIGSTOP)

    def send_each(self, task: str, argument: Any, limit_s: float) -> float:
        """Enqueue one at a time for `limit_s` seconds; return calls a second."""
        began = time.perf_counter()
        count = 0
        while time.perf_counter() - began < limit_s:
            self.last = self.peer.send_each(task, [argument] * 50)
            count += 50
        self.sent += count
        return count / (time.perf_counter() - began)

    def send_bulk(self, task: str, argument: Any, count: int, limit_s: float) -> float:
        """Enqueue `count` calls, a thousand in a bulk, for no longer than `limit_s`; return calls a second."""
        began = time.perf_counter()
        sent = 0
        while sent < count and time.perf_counter() - began < limit_s:
            some = min(BULK, count - sent)
            self.last = self.peer.send_many(task, [argument] * some)
            sent += some
        self.sent += sent
        return sent / (time.perf_counter() - began)

    def drain(self, limit_s: float) -> float:
        """Let the worker go on, until everything that was sent has run; return tasks a second.

        Where results are kept, the last call's result must be there too.
        """
        began = time.perf_counter()
        send_signal(self.everyone(), signal.SIGCONT)
        self.until_run(limit_s)
        if KEEP:
            self.peer.wait(self.last, 10)
        return self.sent / (time.perf_counter() - began)

    def until_run(self, limit_s: float) -> None:
        """Wait until as many calls have run as were sent. Raises TimeoutError."""
        until = time.monotonic() + limit_s
        while tally.count() - self.before < self.sent:
            if time.monotonic() > until:
                raise TimeoutError(f"{tally.count() - self.before} of {self.sent} tasks have run in {limit_s} s")
            if self.roots and not any(root.poll() is None for root in self.roots):
                raise RuntimeError("the worker has ended")
            time.sleep(0.005)

    # -- single figures -----------------------------------------------------------------------------

    def round_trips(self, count: int, limit_s: float) -> list[float]:
        return self.peer.round_trips(count, limit_s)

    def chord(self, count: int, limit_s: float) -> dict[str, float] | str:
        """Send a chord and wait for its value; return the seconds from before its sending, and how long after its last
        member it was that the callback was begun."""
        tally.forget_notes()
        before = tally.count()
        began = time.monotonic()
        try:
            handle = self.peer.chord(count)
        except NotImplementedError:
            return "has no chords"
        gathered = self.peer.wait(handle, limit_s)
        took = time.monotonic() - began
        if gathered != count or tally.count() - before != count + 1:
            raise RuntimeError(f"{gathered} values were gathered, and {tally.count() - before} tasks have run")
        return {"seconds": took, "lag_s": tally.notes("gathered")[0]}

    def idle(self, seconds: float) -> dict[str, float]:
        """Return the memory of the worker's processes, their number, and the CPU that they use without work."""
        pids = [os.getpid(), *self.everyone()] if self.stop_inside is not None else self.everyone()
        before, began = sum(map(cpu_s, pids)), time.monotonic()
        time.sleep(seconds)
        cpu = (sum(map(cpu_s, pids)) - before) / (time.monotonic() - began) * 100
        return {"memory_mb": sum(map(pss_mb, pids)), "cpu_percent": cpu, "processes": len(pids)}

    def mixed(self, rate: int, seconds: float, limit_s: float) -> list[float]:
        """Send no-ops at an even rate, with a task of one second in place of every hundredth.

        Returns how long each short one waited, from before its sending to its beginning.
        """
        tally.forget_notes()
        self.before, self.sent = tally.count(), int(rate * seconds)
        began = time.monotonic()
        for number in range(self.sent):
            time.sleep(max(began + number / rate - time.monotonic(), 0))
            if number % 100 == 50:
                self.peer.send("nap", 1.0)
            else:
                self.peer.send("late", time.monotonic())
        self.until_run(limit_s)
        return tally.notes("waited")

    def recover_child(self, limit_s: float) -> float | str:
        """SIGKILL the child that runs a task; return the seconds until the task has run again, less its own length."""
        pid = self.victim()
        if pid in [root.pid for root in self.roots]:
            send_signal([pid], signal.SIGKILL)
            return "the worker has no children"
        killed = time.monotonic()
        send_signal([pid], signal.SIGKILL)
        return self.recovered(killed, limit_s)

    def recover_worker(self, children: int, limit_s: float) -> float | str:
        """SIGKILL the whole worker while it runs a task, start another at once; return the seconds as above."""
        self.victim()
        killed = time.monotonic()
        self.kill()
        self.launch(children)
        return self.recovered(killed, limit_s)

    def victim(self) -> int:
        """Send a long task and return the process that has begun it."""
        tally.forget_notes()
        self.last = self.peer.send("nap", NAP_S)
        until = time.monotonic() + 10
        while not (begun := tally.notes("began")):
            if time.monotonic() > until:
                raise TimeoutError("a task did not begin within 10 s")
            time.sleep(0.001)
        time.sleep(0.05)
        return int(begun[0])

    def recovered(self, killed: float, limit_s: float) -> float | str:
        until = time.monotonic() + limit_s
        while not tally.notes("ended"):
            if time.monotonic() > until:
                return f"not within {limit_s:.0f} s"
            time.sleep(0.005)
        return max(tally.last_note("ended") - killed - NAP_S, 0)


def main(name: str) -> None:
    """Answer commands until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a contender prints is no answer
    driver = Driver(importlib.import_module(f"benchmarks.peers.{name}.tasks").Adapter())
    try:
        for line in sys.stdin:
            command = json.loads(line)
            method: Callable[..., Any] = getattr(driver, command.pop("do"))
            try:
                answer = {"value": method(**command)}
            except Exception as error:  # noqa: BLE001 - the harness shows it, and goes on with the next contender
                traceback.print_exc()
                answer = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(answer), file=answers)
    finally:
        driver.kill()


if __name__ == "__main__":
    main(sys.argv[1])

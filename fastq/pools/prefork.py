"""The prefork pool: children forked from a template, fed through one channel, replaced when they die.

The parent holds no user code. What it knows of a child it has from the template (born, died) and from the
channel (what it runs); what it handed over it keeps itself, so that a dead child or template costs at
most the runs that were going on.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from fastq import errors
from fastq._speedups import Channel
from fastq.errors import AppImportError, AppNotFound, PoolError
from fastq.pool import Ended, Manifest, Pool, Running, TaskInfo

logger = logging.getLogger("fastq.pool")

_TEMPLATE_STARTS = 5  # how often a template that dies is started again before the pool gives up


class PreforkPool(Pool):
    """Runs tasks in processes.

    `app` and `folder` are what `fastq.discovery.find_app` takes; `overrides` are settings that win over the
    app's own. `log_level` and `json_logs` are what `fastq.worker.logs.set_up` takes, for the pool's processes.
    """

    def __init__(
        self, app: str | None, *, folder: str = ".", overrides: Mapping[str, Any] | None = None, capacity: int = 2000,
        log_level: str = "INFO", json_logs: bool = False,
    ) -> None:  # fmt: skip
        options = {
            "app": app, "folder": folder, "overrides": dict(overrides or {}), "log_level": log_level,
            "json_logs": json_logs,
        }  # fmt: skip
        self._arguments = json.dumps(options)
        self._capacity = capacity
        self._template: _TemplateProcess | None = None
        self._channel: Channel | None = None
        self._size = 0
        self._pids: dict[int, int] = {}  # child: pid, while it lives
        self._frames: dict[int, bytes] = {}  # ticket: frame, of everything that is not ended yet
        self._again: deque[int] = deque()  # tickets to be put into the channel once more
        self._brake = _Brake()
        self._wanted: list[tuple[float, int]] = []  # (when, child) to be forked
        self._unborn: set[int] = set()  # children that `start` waits for
        self._template_deaths = 0
        self._quiet = False
        self._interrupted, self._interrupt = os.pipe()
        for end in (self._interrupted, self._interrupt):
            os.set_blocking(end, False)
        self._waiting = select.poll()
        self._waiting.register(self._interrupted, select.POLLIN)

    # -- start ------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start the import of the app, for which `load` then waits. Raises PoolError."""
        if self._template is None:
            self._template = _TemplateProcess(self._arguments)

    def load(self) -> Manifest:
        self.begin()
        assert self._template is not None
        return self._template.manifest()

    def start(self, children: int) -> None:
        assert self._template is not None, "load() comes first"
        try:
            self._channel = Channel(children, self._capacity)
        except OSError as error:
            raise PoolError(f"The pool's channel can't be made: {error}") from error
        self._size = children
        self._waiting.register(self._channel.fileno(), select.POLLIN)
        self._open_template()
        self._unborn = set(range(children))
        for child in range(children):
            self._template.order({"fork": child})
        while self._unborn:
            self.collect(None)

    def _open_template(self) -> None:
        assert self._template is not None
        assert self._channel is not None
        self._template.hand_over(self._channel.fds())
        self._waiting.register(self._template.fileno(), select.POLLIN)

    # -- the two directions -------------------------------------------------------------------

    def submit(self, ticket: int, frame: bytes) -> bool:
        assert self._channel is not None
        if self._again:
            return False
        self._frames[ticket] = frame
        if self._channel.put(ticket, frame):
            return True
        del self._frames[ticket]
        return False

    def collect(self, deadline: float | None) -> list[Ended]:
        assert self._channel is not None
        assert self._template is not None
        while True:
            ready = {fd for fd, _ in self._waiting.poll(self._patience(deadline))}
            ended = self._ended(self._channel.take()) if self._channel.fileno() in ready else []
            heard = self._template.fileno() in ready
            if heard:
                ended += self._hear()
            self._put_again()
            self._fork_wanted()
            if self._interrupted in ready:
                os.read(self._interrupted, 4096)
                return ended
            if ended or heard or (deadline is not None and time.monotonic() >= deadline):
                return ended

    def withdraw(self) -> list[int]:
        assert self._channel is not None
        back = [*self._channel.withdraw(), *self._again]
        self._again.clear()
        for ticket in back:
            self._frames.pop(ticket, None)
        return back

    def running(self) -> list[Running]:
        if self._channel is None:
            return []
        return [
            Running(ticket, child, self._pids.get(child, 0), since) for child, ticket, since in self._channel.running()
        ]

    def kill(self, tickets: Sequence[int]) -> None:
        assert self._template is not None
        wanted = set(tickets)
        for run in self.running():
            if run.ticket in wanted:
                self._brake.forgive(run.child)
                self._template.order({"kill": run.child})

    def interrupt(self) -> None:
        with suppress(BlockingIOError):
            os.write(self._interrupt, b"!")

    # -- stop ------------------------------------------------------------------------------------

    def quiet(self) -> None:
        self._quiet = True
        if self._channel is not None:
            self._channel.stop()

    def stop(self, deadline: float) -> None:
        self.quiet()
        if self._channel is not None:
            while self._pids and time.monotonic() < deadline:
                self.collect(deadline)
        if self._template is not None:
            self._template.end()
            self._template = None
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        for end in (self._interrupted, self._interrupt):
            with suppress(OSError):
                os.close(end)
        self._interrupted = self._interrupt = -1

    # -- what the template says ---------------------------------------------------------------------

    def _hear(self) -> list[Ended]:
        assert self._template is not None
        news = self._template.news()
        if news is None:
            return self._template_died()
        ended = []
        for item in news:
            if "born" in item:
                self._pids[item["born"]] = item["pid"]
                self._unborn.discard(item["born"])
            elif "died" in item:
                ended += self._child_died(item["died"], item["pid"], describe(item["status"]))
        return ended

    def _child_died(self, child: int, pid: int, death: str) -> list[Ended]:
        assert self._channel is not None
        self._pids.pop(child, None)
        burial = self._channel.bury(child)
        ended = self._ended(burial.ended)
        if burial.running and self._frames.pop(burial.running, None) is not None:
            ended.append(Ended(burial.running, b"", death))
        self._again.extend(ticket for ticket in burial.unbegun if ticket in self._frames)
        if not self._quiet:
            delay = self._brake.delay_after_death(child)
            logger.warning(
                "Pool child %d (pid %d) %s%s",
                child,
                pid,
                death,
                f"; its successor waits {delay:.1f} s" if delay else "",
            )
            self._wanted.append((time.monotonic() + delay, child))
        return ended

    def _template_died(self) -> list[Ended]:
        """Start another template; the children died with the old one."""
        assert self._template is not None
        self._waiting.unregister(self._template.fileno())
        pids, self._pids = self._pids, {}
        self._template.end()
        ended: list[Ended] = []
        self._template_deaths += 1
        if self._template_deaths > _TEMPLATE_STARTS:
            raise PoolError(f"The pool's template process died {self._template_deaths} times: the pool can't go on")
        logger.error("The pool's template process died; starting another")
        quiet, self._quiet = self._quiet, True  # the successors are forked all at once, below
        for child in range(self._size):
            ended += self._child_died(child, pids.get(child, 0), "died with the template")
        self._quiet = quiet
        self._template = _TemplateProcess(self._arguments)
        self._template.manifest()
        self._open_template()
        if not quiet:
            self._wanted = [(0.0, child) for child in range(self._size)]
        return ended

    # -- steps ------------------------------------------------------------------------------------------

    def _ended(self, taken: Iterable[tuple[int, int, bytes]]) -> list[Ended]:
        ended = []
        for child, ticket, outcome in taken:
            self._brake.forgive(child)
            if self._frames.pop(ticket, None) is not None:
                ended.append(Ended(ticket, outcome))
        return ended

    def _put_again(self) -> None:
        assert self._channel is not None
        while self._again and self._channel.put(self._again[0], self._frames[self._again[0]]):
            self._again.popleft()

    def _fork_wanted(self) -> None:
        if not self._wanted or self._quiet:
            return
        assert self._template is not None
        now = time.monotonic()
        for _, child in [wish for wish in self._wanted if wish[0] <= now]:
            self._template.order({"fork": child})
        self._wanted = [wish for wish in self._wanted if wish[0] > now]

    def _patience(self, deadline: float | None) -> float | None:
        """Return for how many milliseconds `collect` may sleep."""
        points = [when for when, _ in self._wanted] + ([deadline] if deadline is not None else [])
        return max(0.0, (min(points) - time.monotonic()) * 1000) + 0.5 if points else None


class _Brake:
    """Slows the replacement of children that die without ending anything, one after another."""

    _FREE = 3  # deaths in a row that are replaced at once
    _FIRST_S, _MOST_S = 0.1, 5.0

    def __init__(self) -> None:
        self._fruitless = 0
        self._fruitful: set[int] = set()

    def forgive(self, child: int) -> None:
        """Note that a child has ended something, or that its death is wanted."""
        self._fruitful.add(child)

    def delay_after_death(self, child: int) -> float:
        """Return for how many seconds the successor of a dead child is to wait."""
        if child in self._fruitful:
            self._fruitful.discard(child)
            self._fruitless = 0
        else:
            self._fruitless += 1
        late = self._fruitless - self._FREE
        return min(self._FIRST_S * 2.0 ** (late - 1), self._MOST_S) if late > 0 else 0.0


class _TemplateProcess:
    """The parent's end of a template."""

    def __init__(self, arguments: str) -> None:
        self._control, far = socket.socketpair()
        self._input = b""
        command = [sys.executable, "-m", "fastq.pools.template", str(far.fileno())]
        try:
            # A session of its own: a terminal's ^C is for the parent alone, and the group can be killed whole.
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                command, pass_fds=(far.fileno(),), stdin=subprocess.PIPE, start_new_session=True
            )
            assert self._process.stdin is not None
            with suppress(BrokenPipeError), self._process.stdin as stdin:
                stdin.write(arguments.encode())
        except OSError as error:
            raise PoolError(f"The pool's template process can't be started: {error}") from error
        finally:
            far.close()

    def fileno(self) -> int:
        return self._control.fileno()

    def manifest(self) -> Manifest:
        """Wait for the app to be imported. Raises AppImportError, AppNotFound, PoolError."""
        while (news := self.news()) == []:
            pass
        if news is None:
            status = self._process.wait()
            raise AppImportError(f"The process died while it imported the app: {_exit_words(status)}")
        first = news[0]
        if "failed" in first:
            self.end()
            kind, message, trace = (first["failed"][key] for key in ("kind", "message", "traceback"))
            if kind == AppImportError.__name__:
                raise AppImportError(message, trace)
            raise getattr(errors, kind, AppNotFound)(message)
        ready = first["ready"]
        tasks = {name: TaskInfo(name, ack, ignore_result) for name, ack, ignore_result in ready["tasks"]}
        return Manifest(ready["app"], ready["settings"], tasks)

    def hand_over(self, fds: Sequence[int]) -> None:
        """Give the template the channel's descriptors."""
        socket.send_fds(self._control, [b'{"seats": true}\n'], list(fds))

    def order(self, order: dict[str, Any]) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # it is dead: `news` says so
            self._control.sendall(json.dumps(order).encode() + b"\n")

    def news(self) -> list[dict[str, Any]] | None:
        """Wait for something that the template says; None when it is gone."""
        try:
            data = self._control.recv(1 << 20)
        except ConnectionResetError:
            data = b""
        if not data:
            return None
        *lines, self._input = (self._input + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def end(self) -> None:
        """Kill the template and all that is in its process group, and wait until it is gone."""
        self._control.close()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def describe(status: int) -> str:
    """Say how a process ended, from its wait status."""
    return _exit_words(os.waitstatus_to_exitcode(status))


def _exit_words(code: int) -> str:
    if code >= 0:
        return f"exited with status {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"

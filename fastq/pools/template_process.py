"""The parent's end of a template: starts the process, gives it orders, and hears its news."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fastq import errors
from fastq.errors import AppImportError, AppNotFound, PoolError
from fastq.pool import Manifest, TaskInfo
from fastq.state import Limit


class TemplateProcess:
    """The parent's end of a template."""

    def __init__(self, arguments: str) -> None:
        self._control, far = socket.socketpair()
        self._input = b""
        self._ordering = threading.Lock()
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
        tasks = [_task_info(told) for told in ready["tasks"]]
        return Manifest(ready["app"], ready["settings"], {task.name: task for task in tasks})

    def hand_over(self, channels: Sequence[Sequence[int]]) -> None:
        """Give the template the descriptors of each lane's channel."""
        order = json.dumps({"channels": [len(fds) for fds in channels]}).encode() + b"\n"
        with self._ordering, suppress(BrokenPipeError, ConnectionResetError):
            socket.send_fds(self._control, [order], [fd for fds in channels for fd in fds])

    def order(self, order: dict[str, Any]) -> None:
        """Give an order. Any thread may call this."""
        with self._ordering, suppress(OSError):  # it is dead: `news` says so
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

    def reap_orphans(self) -> None:
        """As process 1, which the system gives what others left behind: let go of what is dead, but for the template.

        While there is a template, it adopts what tasks leave behind; this is for what outlives one that died.
        """
        if os.getpid() != 1:
            return
        for task in Path("/proc/self/task").iterdir():
            for pid in map(int, (task / "children").read_text().split()):
                if pid != self._process.pid:
                    with suppress(ChildProcessError):
                        os.waitpid(pid, os.WNOHANG)

    def end(self) -> None:
        """Kill the template and all that is in its process group, and wait until it is gone."""
        self._control.close()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def _task_info(told: dict[str, Any]) -> TaskInfo:
    return TaskInfo(**{**told, "limits": tuple(Limit(*limit) for limit in told["limits"])})


def describe(status: int, peak_mb: int = 0, words: str = "") -> str:
    """Say how a process ended, from its wait status, and how much memory it had; its last words follow on lines."""
    how = _exit_words(os.waitstatus_to_exitcode(status))
    if peak_mb:
        how = f"{how}, having had up to {peak_mb} MB"
    return f"{how}\n{words}" if words else how


def _exit_words(code: int) -> str:
    if code >= 0:
        return f"exited with status {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"

"""The template: a process that imports the user's app once, and then does nothing but fork pool children.

It has one thread, so that its forks are safe, and children share its memory until they write to it. It
talks with the parent over a stream socket, a JSON object a line:

* to the parent: ``{"ready": manifest}`` or ``{"failed": …}`` once; ``{"born": index, "pid": pid}`` and
  ``{"died": index, "pid": pid, "status": wait status}`` for children;
* from the parent: ``{"seats": true}`` with the channel's descriptors, ``{"fork": index}``, ``{"kill": index}``.

When the parent is gone, so is the other end of the socket: the template kills the whole process group.
Run as ``python -m fastq.pools.template SOCKET``, with a JSON object that `PreforkPool` writes on standard input.
"""

from __future__ import annotations

import array
import ctypes
import gc
import json
import logging
import os
import select
import signal
import socket
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from typing import Any

from fastq._speedups import Seat
from fastq.app import FastQ
from fastq.discovery import find_app
from fastq.errors import AppImportError, FastQError
from fastq.pools import child
from fastq.pools.title import Title
from fastq.settings import fields_of
from fastq.worker import logs

logger = logging.getLogger("fastq.template")

_PR_SET_PDEATHSIG = 1


class Template:
    """Owns the children; forks, reaps and kills them as the parent asks."""

    def __init__(self, app: FastQ, control: socket.socket) -> None:
        self._app = app
        self._control = control
        self._children: dict[int, int] = {}  # pid: index
        self._seats: tuple[int, ...] = ()
        self._input = b""
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(self._woken, False)

    def run(self) -> None:
        """Serve the parent until it is gone."""
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        waiting = select.poll()
        waiting.register(self._control, select.POLLIN)
        waiting.register(self._woken, select.POLLIN)
        while True:
            for fd, _ in waiting.poll():
                if fd == self._woken:
                    with suppress(BlockingIOError):
                        os.read(self._woken, 4096)
                elif not self._hear():
                    return
            self._reap()

    def _hear(self) -> bool:
        data, ancillary, _, _ = self._control.recvmsg(65_536, socket.CMSG_SPACE(64))
        if not data:
            return False
        for _, kind, packed in ancillary:
            if kind == socket.SCM_RIGHTS:
                self._seats = tuple(array.array("i", packed))
        *lines, self._input = (self._input + data).split(b"\n")
        for line in lines:
            order = json.loads(line)
            if "fork" in order:
                self._fork(order["fork"])
            elif "kill" in order:
                self._kill(order["kill"])
        return True

    def _fork(self, index: int) -> None:
        own_pid = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._become_child(index, own_pid)
        self._children[pid] = index
        self.say({"born": index, "pid": pid})

    def _become_child(self, index: int, template_pid: int) -> None:
        """Live as a child and exit; this never returns into the template's own code."""
        status = 1
        try:
            _die_with_parent()
            if os.getppid() != template_pid:
                return
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.close(self._woken)
            os.close(self._wake)
            self._control.close()
            child.prepare()
            child.serve(self._app, Seat(self._seats, index), Title(self._app.name, f"child-{index}"))
            status = 0
        except BaseException:
            logger.exception("Pool child %d broke down", index)
        finally:
            logging.shutdown()
            for stream in (sys.stdout, sys.stderr):
                with suppress(Exception):
                    stream.flush()
            os._exit(status)

    def _kill(self, index: int) -> None:
        for pid, its_index in self._children.items():
            if its_index == index:
                os.kill(pid, signal.SIGKILL)  # not reaped yet, so the number is still its own

    def _reap(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            index = self._children.pop(pid, None)
            if index is not None:
                self.say({"died": index, "pid": pid, "status": status})

    def say(self, message: dict[str, Any]) -> None:
        """Tell the parent."""
        _say(self._control, message)


def _say(control: socket.socket, message: dict[str, Any]) -> None:
    with suppress(BrokenPipeError, ConnectionResetError):  # the parent is gone: the next read says so
        control.sendall(json.dumps(message).encode() + b"\n")


def _die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies; elsewhere than on Linux, the seat's end does."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _manifest(app: FastQ) -> dict[str, Any]:
    tasks = [(task.name, task.options.ack) for task in app.tasks.values()]
    return {"app": app.name, "settings": fields_of(app.settings), "tasks": tasks}


def main(arguments: list[str]) -> None:
    """Import the app, say what is in it, and serve."""
    control = socket.socket(fileno=int(arguments[0]))
    options = json.load(sys.stdin)  # not on the command line, which everyone may read: there may be a password
    logs.set_up(options["log_level"], as_json=options["json_logs"])
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    try:
        app = find_app(options["app"], options["folder"])
        app.settings = replace(app.settings, **options["overrides"])
    except FastQError as error:
        failed = {"kind": type(error).__name__, "message": str(error)}
        failed["traceback"] = error.traceback if isinstance(error, AppImportError) else ""
        _say(control, {"failed": failed})
        return
    Title(app.name, "template").show()
    if threading.active_count() > 1:
        logger.warning(
            "The app started %d threads while it was imported: children have none of them", threading.active_count() - 1
        )
    gc.collect()
    gc.freeze()
    template = Template(app, control)
    template.say({"ready": _manifest(app)})
    try:
        template.run()
    finally:
        os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1:])

"""The template: a process that imports the user's app once, and then does nothing but fork pool children.

It has one thread, so that its forks are safe, and children share its memory until they write to it. It
talks with the parent over a stream socket, a JSON object a line:

* to the parent: ``{"ready": manifest}`` or ``{"failed": …}`` once; for children ``{"born": number, "pid": pid}``,
  ``{"stillborn": number}``, ``{"leaving": number}``, ``{"silent": number}`` and ``{"died": number, "pid": pid,
  "status": wait status, "peak_mb": millions of bytes, "words": its last ones}``;
* from the parent: ``{"channels": [how many descriptors each has]}`` with the descriptors, ``{"fork": number, …}``,
  ``{"kill": number}``, ``{"leave": number}``, ``{"ending": deadline}`` for all, and ``{"tell": number, …}``, which a
  child with many seats gets to read.

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
import time
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from fastq import failpoints
from fastq.app import FastQ
from fastq.discovery import find_app
from fastq.errors import AppImportError, FastQError
from fastq.pools import child
from fastq.pools.child import Post
from fastq.pools.last_words import LastWords
from fastq.pools.page import LEAVE, READY, Page
from fastq.pools.soft_limits import INTERRUPT
from fastq.pools.title import Title
from fastq.settings import fields_of, settings_of
from fastq.worker import logs

logger = logging.getLogger("fastq.template")

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes


class Template:
    """Owns the children; forks, reaps and kills them as the parent asks."""

    def __init__(self, app: FastQ, control: socket.socket) -> None:
        self._app = app
        self._control = control
        self._children: dict[int, int] = {}  # pid: number
        self._channels: list[tuple[int, ...]] = []
        self._lines: dict[int, socket.socket] = {}  # number: to a child that is told things
        self._words = LastWords()
        self._page = Page()
        self._silence_s = app.settings.child_silence_s
        self._ask_at = time.monotonic() + self._silence_s
        self._waiting = select.poll()
        self._input = b""
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(self._woken, False)

    def run(self) -> None:
        """Serve the parent until it is gone."""
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._waiting.register(self._control, select.POLLIN)
        self._waiting.register(self._woken, select.POLLIN)
        while True:
            for fd, _ in self._waiting.poll(self._patience()):
                if fd == self._woken:
                    with suppress(BlockingIOError):
                        os.read(self._woken, 4096)
                elif fd == self._control.fileno():
                    if not self._hear():
                        return
                else:
                    self._hear_child(fd)
            self._reap()
            if self._silence_s and time.monotonic() >= self._ask_at:
                self._ask_children()

    def _hear(self) -> bool:
        data, ancillary, _, _ = self._control.recvmsg(65_536, socket.CMSG_SPACE(64))
        if not data:
            return False
        received = [fd for _, kind, packed in ancillary if kind == socket.SCM_RIGHTS for fd in array.array("i", packed)]
        *lines, self._input = (self._input + data).split(b"\n")
        for line in lines:
            order = json.loads(line)
            if "fork" in order:
                self._fork(order)
            elif "kill" in order:
                self._kill(order["kill"])
            elif "leave" in order:
                self._page.asked[order["leave"]] = LEAVE
                self._tell(order["leave"], order)
            elif "tell" in order:
                self._tell(order["tell"], order)
            elif "ending" in order:
                self._announce(order["ending"])
            else:
                fds = iter(received)
                self._channels = [tuple(next(fds) for _ in range(count)) for count in order["channels"]]
        return True

    def _hear_child(self, fd: int) -> None:
        """A child with many seats has something to say: that it takes nothing more, and will end."""
        for number, line in self._lines.items():
            if line.fileno() == fd:
                said = b""
                with suppress(OSError):  # it died with orders that it had not read
                    said = line.recv(4096)
                if said:
                    self.say({"leaving": number})
                else:
                    self._waiting.unregister(fd)
                return

    def _announce(self, deadline: float) -> None:
        """Let all tasks know by when they are to have ended, and interrupt those that want it."""
        self._page.ending[0] = deadline
        for pid, number in self._children.items():
            if number in self._lines:
                self._tell(number, {"interrupt": number})
            else:
                os.kill(pid, INTERRUPT)  # not reaped yet, so the number is still its own

    def _patience(self) -> float | None:
        """Return for how many milliseconds there is nothing to do but what comes in."""
        return max(0.0, self._ask_at - time.monotonic()) * 1000 + 1 if self._silence_s else None

    def _ask_children(self) -> None:
        """Ask each whether it is there, and tell the parent who has not answered since the last time.

        If this comes late, all processes may have been stopped, or the machine asleep, and nobody is blamed.
        """
        page, now = self._page, time.monotonic()
        late = now - self._ask_at > self._silence_s / 2
        self._ask_at = now + self._silence_s
        for number in self._children.values():
            asked, answered = page.asked[number], page.answered[number]
            if asked == LEAVE or not answered:
                continue
            if answered != asked and asked and not late:
                self.say({"silent": number})
                continue
            page.asked[number] = asked + 1 if READY < asked < 255 else READY + 1
            self._tell(number, {"answer": page.asked[number]})

    def _tell(self, number: int, order: dict[str, Any]) -> None:
        if number in self._lines:
            with suppress(OSError):  # it is gone, or reads nothing: the parent helps itself
                self._lines[number].send(json.dumps(order).encode() + b"\n")

    def _fork(self, order: dict[str, Any]) -> None:
        number, own_pid = order["fork"], os.getpid()
        self._page.clear(number)
        line, pid = None, -1
        self._words.expect(number)
        try:
            if order["serves"] != "one":
                line = self._open_line(number)
            pid = os.fork()
        except OSError as error:  # there are too many processes, or too little memory: that may pass
            logger.error("Pool child %d can't be forked: %s", number, error)
        if pid == 0:
            self._become_child(order, line, own_pid)
        if line is not None:
            line.close()
        if pid < 0:
            self._close_line(number)
            self._words.of(number)
            self.say({"stillborn": number})
            return
        self._children[pid] = number
        self.say({"born": number, "pid": pid})

    def _open_line(self, number: int) -> socket.socket:
        """Open the line to a child that is to be forked, and return its end."""
        mine, line = socket.socketpair()
        mine.setblocking(False)
        self._lines[number] = mine
        self._waiting.register(mine, select.POLLIN)
        return line

    def _close_line(self, number: int) -> None:
        if line := self._lines.pop(number, None):
            with suppress(KeyError):
                self._waiting.unregister(line)
            line.close()

    def _become_child(self, order: dict[str, Any], line: socket.socket | None, template_pid: int) -> None:
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
            self._words.begin(order["fork"])
            failpoints.enter("child")
            for mine in self._lines.values():
                mine.close()
            post = Post(
                self._app, order["fork"], self._channels[order["lane"]], order["seat"], order["size"], self._page, line
            )
            self._app.lifecycle.ending.watch(self._page.ending)
            self._app.lifecycle.begin_child()
            self._page.answered[post.number] = READY
            child.SERVES[order["serves"]](post)
            self._page.answered[post.number] = 0
            self._app.lifecycle.end_child()
            status = 0
        except BaseException:
            logger.exception("Pool child %d broke down", order["fork"])
        finally:
            logging.shutdown()
            for stream in (sys.stdout, sys.stderr):
                with suppress(Exception):
                    stream.flush()
            os._exit(status)

    def _kill(self, number: int) -> None:
        for pid, its_number in self._children.items():
            if its_number == number:
                os.kill(pid, signal.SIGKILL)  # not reaped yet, so the number is still its own

    def _reap(self) -> None:
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            number = self._children.pop(pid, None)
            if number is not None:
                self._close_line(number)
                self.say({
                    "died": number, "pid": pid, "status": status, "peak_mb": round(usage.ru_maxrss * _RSS_UNIT / 1e6),
                    "words": self._words.of(number),
                })  # fmt: skip

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


def _adopt_orphans() -> None:
    """Have processes that a task left behind become children of this one, which reaps them, and not of process 1."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _manifest(app: FastQ) -> dict[str, Any]:
    tasks = [asdict(task.info) for task in app.tasks.values()]
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
        app.settings = settings_of({**fields_of(app.settings), **options["overrides"]})
        _ = app.settings.packing  # its keys are read here, once for all children
        app.lifecycle.begin_worker()
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
    _adopt_orphans()
    template = Template(app, control)
    template.say({"ready": _manifest(app)})
    try:
        template.run()
    finally:
        os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1:])

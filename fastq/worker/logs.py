"""How the processes of a worker log: one format, as text for people or as a JSON object a line.

What comes from outside, a task's arguments say, can't forge a line or steer a terminal: characters that are
not printable are escaped, and the lines of a record after its first are indented.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from datetime import datetime, timezone

from fastq.task_logging import TaskFilter

_COLOURS = {"WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}


def set_up(level: str, *, as_json: bool) -> None:
    """Send all logging of this process to stderr, from `level` on, in place of what was set up before."""
    output = logging.StreamHandler()
    output.addFilter(TaskFilter())
    output.setFormatter(JsonFormatter() if as_json else TextFormatter(colour=_is_terminal()))
    logging.basicConfig(level=level, handlers=[output], force=True)
    logging.captureWarnings(capture=True)


def escape(text: str) -> str:
    """Return text with the characters that are not printable as escapes: line ends, terminal codes, bidi marks."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def escape_lines(text: str, prefix: str = "") -> str:
    """Return text whose lines stay lines; those after the first get a prefix."""
    first, *rest = text.split("\n")
    return "\n".join([escape(first.expandtabs(4)), *(prefix + escape(line.expandtabs(4)) for line in rest)])


class TextFormatter(logging.Formatter):
    """``2025-01-31 12:00:00.000 INFO shop.mail in shop.greet[0199f3a2-…]: the message``, in the local time zone.

    Where a record was made in a task, it says in which.
    """

    def __init__(self, *, colour: bool = False) -> None:
        super().__init__("%(message)s")
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line, or several of which all but the first are indented."""
        level = record.levelname
        if self._colour and level in _COLOURS:
            level = f"\x1b[{_COLOURS[level]}m{level}\x1b[0m"
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        text = escape_lines(super().format(record).rstrip("\n"), "  | ")
        id = getattr(record, "task_id", "")
        task = f" in {record.__dict__['task_name']}[{id}]" if id else ""
        return f"{when}.{int(record.msecs):03d} {level} {escape(record.name)}{task}: {text}"


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (RFC 3339, UTC), level, logger, pid, message and, if there is one, exception.

    Of a record that was made in a task also the task's name, and its id as task_id.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of ASCII."""
        entry: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage(),
        }
        if id := getattr(record, "task_id", ""):
            entry |= {"task": record.__dict__["task_name"], "task_id": id}
        exception = self.formatException(record.exc_info) if record.exc_info else getattr(record, "exception", "")
        if exception:
            entry["exception"] = exception
        return json.dumps(entry)


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty() and "NO_COLOR" not in os.environ

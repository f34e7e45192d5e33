"""A contender in another language: a producer process of its own is told, in JSON lines, what the adapter is told."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from typing import Any

from benchmarks.peers.peer import Peer


class Foreign(Peer):
    """Passes on what it is told.

    The producer reads ``{"do": "send_many", "task": "same", "arguments": [1, 2]}`` and the like on standard input and
    answers each with a line on standard output: ``{"value": …}`` or ``{"error": …}``. It times its round trips itself.
    """

    def __init__(self) -> None:
        self.process = subprocess.Popen(self.producer(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def producer(self) -> list[str]:
        """Return the command of the producer."""
        raise NotImplementedError

    def told(self, do: str, **arguments: Any) -> Any:
        """Tell the producer, and return the value of its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the producer has ended")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["value"]

    def send(self, task: str, argument: Any) -> Any:
        return self.told("send_each", task=task, arguments=[argument])

    def send_many(self, task: str, arguments: Sequence[Any]) -> Any:
        return self.told("send_many", task=task, arguments=list(arguments))

    def send_each(self, task: str, arguments: Sequence[Any]) -> Any:
        return self.told("send_each", task=task, arguments=list(arguments))

    def wait(self, handle: Any, timeout_s: float) -> Any:
        return self.told("wait", handle=handle, timeout_s=timeout_s)

    def round_trips(self, count: int, limit_s: float) -> list[float]:
        found: list[float] = self.told("round_trips", count=count, limit_s=limit_s)
        return found

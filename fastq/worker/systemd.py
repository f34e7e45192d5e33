"""The service manager: told how it goes with the worker, by the protocol of sd_notify(3).

Lines of ``NAME=value`` in datagrams to the socket that ``NOTIFY_SOCKET`` names; a path, or a name in the abstract
namespace of Linux, which begins with ``@``.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import time
from collections.abc import MutableMapping

logger = logging.getLogger("fastq.worker")

_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class ServiceManager:
    """One that listens at an address and wants a sign of life every `watchdog_s`; without an address, nobody does."""

    def __init__(self, address: str = "", watchdog_s: float = math.inf) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        #: How often to call `alive`; a sign twice as seldom is in time yet.
        self.every_s = watchdog_s / 2
        self._sign_at = -math.inf

    @classmethod
    def of_this_process(cls, environment: MutableMapping[str, str] = os.environ) -> ServiceManager:
        """Return the one that started this process.

        What it said is taken out of the environment: processes that are started from here are not to speak to it.
        """
        address, microseconds, pid = (environment.pop(name, "") for name in _VARIABLES)
        watched = microseconds.isdecimal() and int(microseconds) > 0 and pid in ("", str(os.getpid()))
        return cls(address, int(microseconds) / 1e6 if watched else math.inf)

    def ready(self, status: str) -> None:
        """Say that the worker is ready, and in words what it does."""
        self._tell("READY=1", f"STATUS={status}")

    def stopping(self, status: str, within_s: float) -> None:
        """Say that the worker stops, and for how long it may take; the manager's own limit may be shorter."""
        self._tell("STOPPING=1", f"EXTEND_TIMEOUT_USEC={math.ceil(within_s * 1e6)}", f"STATUS={status}")

    def alive(self) -> None:
        """Give a sign of life, if it is time for one."""
        now = time.monotonic()
        if self._address and now - self._sign_at >= self.every_s / 2:
            self._sign_at = now
            self._tell("WATCHDOG=1")

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(1.0)
                sender.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            logger.warning("The service manager at NOTIFY_SOCKET can't be told %s: %s", lines[0], error)

"""Another host, as far as the kernel knows: a network namespace, and the cable to it, which a test can pull."""

from __future__ import annotations

import ctypes
import os
import random
import socket
import subprocess
import uuid

from fastq.testing.faults import Proxy

_NEW_NET = 0x40000000  # CLONE_NEWNET of sched.h


def can_make_hosts() -> None:
    """Raise unless this process may make hosts."""
    FarHost().close()


class FarHost:
    """Reaches servers of this host through proxies that listen at `address`, beyond the cable."""

    def __init__(self) -> None:
        self._name = f"fq{uuid.uuid4().hex[:8]}"
        near, far = f"{self._name}n", f"{self._name}f"
        subnet = f"198.18.{random.randrange(256)}.{random.randrange(64) * 4}"  # for tests of networks: RFC 2544
        base, _, last = subnet.rpartition(".")
        self.address = f"{base}.{int(last) + 2}"
        self._proxies: list[Proxy] = []
        _ip("netns", "add", self._name)
        try:
            _ip("link", "add", near, "type", "veth", "peer", "name", far, "netns", self._name)
            _ip("address", "add", f"{base}.{int(last) + 1}/30", "dev", near)
            _ip("-n", self._name, "address", "add", f"{self.address}/30", "dev", far)
            _ip("-n", self._name, "link", "set", far, "up")
            self.plug()
        except BaseException:
            self.close()
            raise

    def proxy_to(self, port: int) -> Proxy:
        """Return a proxy beyond the cable to a server of 127.0.0.1 on this side of it."""
        here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        there = os.open(f"/run/netns/{self._name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _enter(there)
            try:
                listener = socket.create_server((self.address, 0))
            finally:
                _enter(here)
        finally:
            os.close(here)
            os.close(there)
        self._proxies.append(Proxy(port, listener))
        return self._proxies[-1]

    def pull(self) -> None:
        """Pull the cable: nothing gets through, and nobody is told."""
        _ip("-n", self._name, "link", "set", f"{self._name}f", "down")

    def plug(self) -> None:
        """Plug it in."""
        _ip("-n", self._name, "link", "set", f"{self._name}f", "up")
        _ip("link", "set", f"{self._name}n", "up")

    def close(self) -> None:
        for proxy in self._proxies:
            proxy.close()
        _ip("netns", "delete", self._name)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)


def _enter(namespace: int) -> None:
    """Have this thread make its sockets in a network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, _NEW_NET):
        raise OSError(ctypes.get_errno(), "setns")

"""The bodies of the AMQP link for tests, and the server that they are tried against."""

from __future__ import annotations

import os
from typing import Any

import pytest

from fastq._speedups.amqp_link import Link

from .crew import body


def link_class(kind: str) -> type[Link]:
    """Return the link of a body; skip where it is not built."""
    if kind == "c":
        pytest.importorskip("fastq._speedups.amqp_c", reason="amqp_c is not built", exc_type=ImportError)
    found: type[Link] = body(kind, "amqp").AmqpLink
    return found


def open_link(kind: str, **options: Any) -> Link:
    """Open a link to RabbitMQ; skip where there is none, unless services are required."""
    link = link_class(kind)
    try:
        return link(**{"name": "fastq tests", **options})
    except PermissionError:
        raise
    except ConnectionError as error:
        if "port" in options or os.environ.get("FASTQ_REQUIRE_SERVICES") == "1":
            raise
        pytest.skip(f"no RabbitMQ on port 5672: {error}")

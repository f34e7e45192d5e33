"""Run them: ``python -m benchmarks.micro``."""

from __future__ import annotations

from benchmarks.micro import amqp, channel, frames

if __name__ == "__main__":
    frames.main()
    channel.main()
    amqp.main()

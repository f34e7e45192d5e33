"""Run the benchmarks: ``python -m benchmarks``. Arguments go to ``python -m benchmarks.load``."""

from __future__ import annotations

import sys

import click

from benchmarks import vitals
from benchmarks.load import pool
from benchmarks.load.__main__ import REDIS_URL
from benchmarks.load.__main__ import main as load
from benchmarks.load.resp import RedisAt


def main(arguments: list[str]) -> int:
    """Measure one worker, the pool alone, and then fastq beside its peers on what is there; return an exit code."""
    if not {"-h", "--help"} & set(arguments):
        vitals.main()
        pool.main()
    if not {"-h", "--help", "--broker", "--redis-url"} & set(arguments) and not there(REDIS_URL):
        print(f"There is no Redis at {REDIS_URL}: the load benchmarks run on SQLite.", file=sys.stderr)
        arguments = ["--broker", "sqlite", *arguments]
    try:
        load.main(arguments, prog_name="python -m benchmarks", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    return 0


def there(url: str) -> bool:
    """Return whether a Redis server answers."""
    try:
        RedisAt(url).close()
    except (OSError, ValueError):
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

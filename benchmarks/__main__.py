"""Run the benchmarks: ``python -m benchmarks``. Arguments go to ``python -m benchmarks.load``."""

from __future__ import annotations

import sys

import click

from benchmarks import vitals
from benchmarks.load import pool
from benchmarks.load.__main__ import main as load


def main(arguments: list[str]) -> int:
    """Measure one worker, the pool alone, and then fastq beside its peers; return an exit code."""
    if not {"-h", "--help"} & set(arguments):
        vitals.main()
        pool.main()
    try:
        load.main(arguments, prog_name="python -m benchmarks", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

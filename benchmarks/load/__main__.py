"""Run a load benchmark: ``python -m benchmarks.load pool``."""

from __future__ import annotations

import sys

from benchmarks.load import pool

BENCHMARKS = {"pool": pool.main}


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0] not in BENCHMARKS:
        print(f"usage: python -m benchmarks.load {{{','.join(BENCHMARKS)}}}", file=sys.stderr)
        return 2
    BENCHMARKS[arguments[0]]()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Run the benchmarks: ``python -m benchmarks``."""

from benchmarks import vitals

if __name__ == "__main__":
    vitals.main()

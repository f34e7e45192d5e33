"""The app that the benchmarks run: no-ops, and an import as slow as asked for."""

import os
import time

from fastq import FastQ

time.sleep(float(os.environ.get("SAMPLE_IMPORT_S", "0")))

app = FastQ("sample", broker=os.environ.get("SAMPLE_BROKER", "sqlite:///sample.db"))


@app.task
def nothing() -> None:
    """Do nothing."""


@app.task
def add(a: int, b: int) -> int:
    return a + b

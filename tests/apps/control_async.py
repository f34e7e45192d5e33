"""An app for tests of remote control over ``async def`` tasks."""

import asyncio
import os
from pathlib import Path

from fastq import FastQ

app = FastQ("control_async", broker="memory://control-async")


@app.task
async def rest(begun: str, until: str = "") -> int:
    """Say that it has begun, and last until the other file is there; without one, for ever. It cleans up."""
    Path(begun).touch()
    try:
        while not (until and Path(until).exists()):
            await asyncio.sleep(0.01)
    finally:
        Path(f"{begun}-left").touch()
    return os.getpid()

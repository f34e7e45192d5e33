"""An app for tests of early tasks whose acknowledgement gets lost on its way."""

from pathlib import Path

from fastq import FastQ

app = FastQ("strict", broker="memory://strict")


@app.task(name="strict", ack="early", strict_early=True)
def strict(path: str) -> None:
    with Path(path).open("a") as file:
        file.write("begun\n")


@app.task(name="loose", ack="early")
def loose(path: str) -> None:
    with Path(path).open("a") as file:
        file.write("begun\n")

"""A task that says how far it is: run ``fastq worker -A progress`` in this folder, and then this file.

``fastq result ID --follow`` shows the same as a bar.
"""

import time

from fastq import FastQ, current_task

app = FastQ("progress")


@app.task
def bake(loaves: int) -> str:
    for done in range(loaves):
        current_task.progress(done, loaves, f"loaf {done + 1} is in the oven")
        time.sleep(0.2)
    current_task.progress(loaves, loaves, "all are done")
    return f"{loaves} loaves"


if __name__ == "__main__":
    result = bake.delay(10)
    shown = None
    while not result.ready():
        if (progress := result.progress) not in (None, shown):
            print(f"{progress.done} of {progress.total}: {progress.note}")
            shown = progress
        time.sleep(0.05)
    print(result.get())

"""An app for tests of children that go silent."""

import ctypes
import os
import signal
import threading
import time

from fastq import FastQ

app = FastQ("silent", broker="memory://silent")


@app.task
def pid() -> int:
    return os.getpid()


@app.task
async def pid_of_the_loop() -> int:
    return os.getpid()


@app.task
def leave_a_thread_that_holds_the_gil() -> int:
    def hold_it() -> None:
        time.sleep(0.05)  # until the task has ended
        ctypes.PyDLL(None).sleep(600)

    threading.Thread(target=hold_it, daemon=True).start()
    return os.getpid()


@app.task
def hold_the_gil(milliseconds: int) -> int:
    ctypes.PyDLL(None).usleep(milliseconds * 1000)
    return os.getpid()


@app.task
def stop_myself() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)

"""Exit statuses of workers and of the other commands; apart, so that commands need not load the worker."""

from __future__ import annotations

import enum


class ExitCode(enum.IntEnum):
    """What the process's exit status says."""

    OK = 0  # stopped as asked, nothing was broken off
    FAILED = 1  # the worker broke
    USAGE = 2  # an option, setting, URL or app path is wrong
    APP = 3  # the app can't be imported
    BROKER = 4  # the broker or the backend can't be used
    UNFINISHED = 5  # stopped as asked, but running tasks had to be broken off
    STUCK = 6  # the watchdog ended it: a part of it hung

"""Which task a log record was made in: for loggers of tasks, and for the formats of workers."""

from __future__ import annotations

import logging

from .current import running


class TaskFilter(logging.Filter):
    """Gives each record `task_id` and `task_name`, empty outside of a task; lets all records through."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Mark a record."""
        run = running.get()
        if run is not None:
            record.task_id, record.task_name = run.message.uuid, run.message.task
        elif not hasattr(record, "task_id"):
            record.task_id = record.task_name = ""
        return True


def get_task_logger(name: str) -> logging.Logger:
    """Return the logger of this name, whose records have `task_id` and `task_name`, for formats of an app's own.

    The logs of workers say of every record in which task it was made, whichever logger it comes from.
    """
    logger = logging.getLogger(name)
    if not any(isinstance(each, TaskFilter) for each in logger.filters):
        logger.addFilter(TaskFilter())
    return logger

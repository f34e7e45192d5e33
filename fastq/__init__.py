"""fastq: a distributed task queue for Python with a C-accelerated worker."""

from .app import FastQ, default_app, task
from .canvas import Signature, TaskSet, TaskSetResult
from .encoder import Serializer, register_serializer
from .execution import current_task
from .failure import register_exception
from .outcome import State
from .result import AsyncResult
from .task import Task

__version__ = "0.1.0"

__all__ = [
    "AsyncResult",
    "FastQ",
    "Serializer",
    "Signature",
    "State",
    "Task",
    "TaskSet",
    "TaskSetResult",
    "__version__",
    "current_task",
    "default_app",
    "register_exception",
    "register_serializer",
    "task",
]

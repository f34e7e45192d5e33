"""fastq: a distributed task queue for Python with a C-accelerated worker."""

from .app import FastQ, default_app, task
from .batch import Batch
from .canvas import Chain, Group, Signature, TaskSet, TaskSetResult, Workflow, chain, chord, group
from .current import current_task
from .encoder import Serializer, register_serializer
from .failure import register_exception
from .middleware import Middleware
from .outcome import State
from .progress import Progress
from .result import AsyncResult, aas_completed, as_completed
from .steps import Step
from .task import Task
from .task_logging import get_task_logger

__version__ = "0.1.0"

__all__ = [
    "AsyncResult",
    "Batch",
    "Chain",
    "FastQ",
    "Group",
    "Middleware",
    "Progress",
    "Serializer",
    "Signature",
    "State",
    "Step",
    "Task",
    "TaskSet",
    "TaskSetResult",
    "Workflow",
    "__version__",
    "aas_completed",
    "as_completed",
    "chain",
    "chord",
    "current_task",
    "default_app",
    "get_task_logger",
    "group",
    "register_exception",
    "register_serializer",
    "task",
]

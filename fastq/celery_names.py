"""What Celery's users write for options and settings that fastq calls otherwise, or does without; pure."""

from __future__ import annotations

from collections.abc import Iterable

from .errors import did_you_mean

_ACK = "ack='late' says it here, and is the default"
_LOST = "a task whose process died runs again here, max_deliveries times at most, unless it has ack='early'"
_STARTED = "what runs is shown by fastq inspect active, and by events"
_QUEUE = "queue says where a call goes"
_APP = "import the modules of tasks in the one that -A names"
_UTC = "times are UTC here, or carry their own zone"

# For each name of Celery's the end of a message about it. Those that are merely near to ours are found without.
_HINTS = {
    "acks_late": _ACK,
    "task_acks_late": _ACK,
    "reject_on_worker_lost": _LOST,
    "task_reject_on_worker_lost": _LOST,
    "track_started": _STARTED,
    "task_track_started": _STARTED,
    "routing_key": _QUEUE,
    "exchange": _QUEUE,
    "retry_policy": "a call is sent once; catch BrokerUnavailable to send it again",
    "include": _APP,
    "imports": _APP,
    "timezone": _UTC,
    "enable_utc": _UTC,
    "task_always_eager": "tests use fastq.testing.kit, and task.apply runs a task here and now",
    "worker_prefetch_multiplier": "a worker fetches what its children can begin soon, and nothing is to be set",
    "beat_schedule": "there are no periodic tasks yet",
}


def hint(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about an option or a setting that there isn't; as `did_you_mean`, for others."""
    return _HINTS.get(name) or did_you_mean(name, known)

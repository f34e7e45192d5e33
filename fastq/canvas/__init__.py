"""Composition: calls that are not made yet, put together into workflows, and what comes of them."""

from .taskset import TaskSet, TaskSetResult
from .work import Chain, Group, Signature, Workflow, chain, chord, group

__all__ = ["Chain", "Group", "Signature", "TaskSet", "TaskSetResult", "Workflow", "chain", "chord", "group"]

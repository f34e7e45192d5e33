"""The floor: what Redis itself does, told by one process that runs no task."""

"""celery as a contender."""

"""dramatiq as a contender."""

"""taskiq as a contender."""

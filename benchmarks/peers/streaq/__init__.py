"""streaq as a contender."""

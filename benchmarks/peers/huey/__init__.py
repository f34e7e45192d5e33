"""huey as a contender."""

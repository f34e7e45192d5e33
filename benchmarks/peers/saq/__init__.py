"""saq as a contender."""

"""rq as a contender."""

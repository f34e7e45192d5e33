"""arq as a contender."""

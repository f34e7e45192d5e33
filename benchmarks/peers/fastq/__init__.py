"""fastq as a contender."""

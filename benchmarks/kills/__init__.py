"""What kills cost: the same harm done to fastq and to Celery, and counted by the same checker."""

"""Load benchmarks: whole paths under load, with peers beside them in the same run."""

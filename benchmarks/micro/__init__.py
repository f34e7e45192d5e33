"""Small benchmarks of the compiled and the Python bodies, with peers beside them."""

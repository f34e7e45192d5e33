"""Benchmarks; ``README.rst`` says how each figure is taken."""

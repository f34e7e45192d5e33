"""Contenders: fastq and its peers, each driven by one generic driver inside an environment of its own.

What is in this package runs there too, so it imports nothing but the standard library.
"""

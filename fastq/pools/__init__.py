"""Pools, one module a kind."""

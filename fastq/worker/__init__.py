"""The engine: fetches, dispatches, settles and renews around a pool."""

"""Benchmarks: each is `python -m bench.<name>`."""

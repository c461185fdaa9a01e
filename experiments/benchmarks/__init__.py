"""Benchmarks: run as modules, e.g. `python -m experiments.benchmarks.updates`."""

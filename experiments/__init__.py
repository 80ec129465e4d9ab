"""Experiments: rows of results, benchmarks and plots, on top of the package."""

"""Benchmarks: speed goals, measured and never asserted."""

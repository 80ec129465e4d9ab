"""Plots for the documentation."""

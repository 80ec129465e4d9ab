"""Norms of linear maps: estimates to train with, upper bounds to certify with."""

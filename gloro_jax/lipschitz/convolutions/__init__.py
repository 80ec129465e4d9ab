"""Norms of convolutions too large to write out: proved on a torus around them, hints by Lanczos."""

"""Trained networks, ready to certify: run folders without checkpoints, one file of weights each."""

"""Checkpoints: what a file holds, which format it is in, and what was done to the model in it."""

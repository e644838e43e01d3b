"""Checkpoint formats: each locates the tensors of a file in place."""

"""Measurements against Git LFS, and the demonstration."""

"""Encodings of a chunk, each exact."""

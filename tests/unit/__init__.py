"""Tests that need no Git."""

"""Tests of git-theta."""

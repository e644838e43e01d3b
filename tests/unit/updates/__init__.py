"""Tests of the updates."""

"""JSON checkpoints for git-theta: lists of numbers become tensors."""

from __future__ import annotations

from git_theta_json.plugin import JsonFormat

__version__ = "0.1.0"

__all__ = ["JsonFormat"]

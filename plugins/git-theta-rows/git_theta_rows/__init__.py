"""Moved rows in git-theta: a matrix whose rows changed places costs its new order."""

from __future__ import annotations

from git_theta_rows.update import MovedRowsUpdate

__version__ = "0.1.0"
__all__ = ["MovedRowsUpdate"]

"""A merge strategy for git-theta: the median of the models, entry by entry."""

from __future__ import annotations

from git_theta_median.plugin import Median

__version__ = "0.1.0"

__all__ = ["Median"]

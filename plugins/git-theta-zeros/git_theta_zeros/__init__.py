"""How much of a changed tensor is zero: a metric for git-theta."""

from __future__ import annotations

from git_theta_zeros.plugin import Zeros

__version__ = "0.1.0"
__all__ = ["Zeros"]

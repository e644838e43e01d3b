"""Merge strategies: plug-ins of the group `git_theta.merges`."""

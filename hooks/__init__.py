"""The hooks that git-theta installs: a few lines of shell each, shipped with the package."""

"""Values and rules: no files, no Git, no torch, no environment."""

"""Numbers of other programs, made by scripts that run them, for tests to compare with."""

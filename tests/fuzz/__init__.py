"""Every parser against files that somebody broke or made to break it: `python -m tests.fuzz`."""

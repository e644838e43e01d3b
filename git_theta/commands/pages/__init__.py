"""Self-contained HTML pages: everything is in one file, and nothing is asked of a network."""

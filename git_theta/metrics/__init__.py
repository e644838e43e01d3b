"""The built-in metrics of differences, found through entry points like anybody's."""

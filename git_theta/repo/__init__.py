"""The outside: Git, Git LFS, the object store, the filter protocol."""

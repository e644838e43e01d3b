"""Every Git workflow that people know, on tracked checkpoints; docs/workflows.md is its table."""

"""What needs a CUDA device: it does there what it does on the processor."""

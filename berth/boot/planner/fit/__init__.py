"""What a model needs of its GPUs, where it fits, and the report when it does not."""

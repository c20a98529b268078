"""TensorRT-LLM's wire."""

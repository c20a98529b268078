"""vLLM's wire."""

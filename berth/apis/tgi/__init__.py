"""Text Generation Inference's API: request, response, stream, tokenize; endpoints lists its routes."""

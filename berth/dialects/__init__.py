"""How an engine is spoken to: canonical requests to the engine's spelling, its responses back. No I/O.

base, registry                          the interfaces, and all dialects by name
vllm, sglang, trtllm, openai            one dialect each
fields, request_checks, structured_output, tokenize, pooling, media     requests
answers, stream_decoder, media_stream, embeddings, logprobs, failures   responses
"""

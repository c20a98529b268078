"""Client APIs: the client's bytes to canonical requests, canonical responses to the client's bytes. No I/O.

base: the interfaces. openai, responses, anthropic, ollama, tgi: one folder per API. rerank, score, tokenize: one module
each. stream_events: how their streams end. translated_stream: the base of stream encoders. tool_arguments: the
arguments of tool calls. model_header: the model's name for APIs whose requests have none.
"""

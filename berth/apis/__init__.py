"""The client APIs: bytes of a client to canonical, canonical to bytes of that client. No I/O.

base: the interfaces. openai, responses, anthropic, ollama, tgi: one folder each. rerank, score, tokenize: one module
each. model_header: the model's name for APIs whose requests have none.
"""

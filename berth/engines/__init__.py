"""The engines: how each is started (Engine) and how each speaks (Dialect). No I/O.

base: the interfaces. registry: all of them by name. vllm, sglang, trtllm (+ trtllm_dialect), remote, sim: one engine
each; environment and parsers: what their command lines share. openai_wire (requests, whole answers), openai_stream,
openai_failures, openai_embeddings, constraints: what their dialects share. guards: what must reach no engine.
"""

"""The engines: how each is started (Engine) and how each speaks (Dialect). No I/O.

base: the interfaces. openai_wire: what the dialects share. vllm, sglang, trtllm, remote, sim: one file each.
"""

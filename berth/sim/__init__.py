"""The simulated engine (`berth sim`): a program of its own that speaks the wire of vLLM, SGLang or TensorRT-LLM and
fails on demand. No GPU, no weights.

main, options             its life, its command line       startup_log, sleep   how it loads and sleeps
http                      sockets and HTTP                 handlers             what each path does
faults, active_faults     the table of faults              engine, inference    scheduling, one request
generation, tokenizer, pooling, structured_output          what it says
dialect, vllm, sglang, trtllm                              each engine's routes, requests and responses
"""

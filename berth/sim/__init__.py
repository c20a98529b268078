"""The simulated engine (`berth sim`): a program of its own that speaks the wire of vLLM, SGLang or TensorRT-LLM and
fails on demand. No GPU, no weights. Berth uses it only for models that name it.

main, options, startup_log     life cycle, command line, log lines
server, http                   sockets and HTTP
handlers, inference, sleep     what each path does
engine, load, faults           scheduling and counters, the pace of tokens, the faults that are active now
generation, tokenizer, pooling, structured_output    generated text and vectors
dialect, vllm, sglang, trtllm  each engine's routes, request parsers and response formatters
"""

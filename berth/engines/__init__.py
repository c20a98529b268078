"""How an engine is started and probed. No I/O.

base, registry                          the interface, and all engines by name
vllm, sglang, trtllm, remote, sim       one engine each
environment, cli_arguments, model_parsers, lora     what their command lines share
"""

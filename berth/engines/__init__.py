"""How an engine is started, probed and put to sleep. No I/O. (dialects: the requests and responses of its API.)

base, registry                          the interface, and all engines by name
vllm, sglang, trtllm, remote, sim       one engine each; remote: attached engines
environment, cli_arguments, model_parsers, model_options, lora     what their command lines share
"""

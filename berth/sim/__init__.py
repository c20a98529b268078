"""The simulated engine (`berth sim`): a program of its own that speaks the wire of vLLM, SGLang or TensorRT-LLM and
fails on demand. No GPU, no weights.

    main         its life: loads, serves, stops          options      its command line
    server       sockets                                  faults       the table of faults; effects, those that are on
    connection   HTTP on a socket                         out          one answer on the wire
    app          what a path gets                         inference    one request through the engine
    engine       who runs, who waits, what was counted    script       what an answer says, token by token
    dialect      what a dialect is; vllm, sglang, trtllm, each with a reader and a writer
"""

"""Control runs forever, and it alone starts and stops engines. When it dies, routers continue without it.

controller                                     the loop: observe, decide, act, publish
observe, diagnosis                             the processes, and why one has exited
decisions                                      what to do next, pure, and the records that it is decided from
act, cleanup, sleep, events                    executing transitions
watch, probes, logs, watches                   background tasks: probes, logs, silent workers, a full disk ...
attached                                       servers that run elsewhere
publish, recovery                              the State, and a restart of control itself
runtime, supervisord_client                    shared by all parts; supervisord's XML-RPC
operations                                     what was requested of control: control.sock, `berth load ...`
ledger                                         usage, audit, and the API keys' files
status                                         `berth status`
"""

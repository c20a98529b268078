"""Control runs forever, and it alone starts and stops engines. When it dies, routers continue without it.

controller                                     the loop: observe, decide, act, publish
observe, diagnosis                             the processes, and why one has exited
lifecycle, standby, restart_policy, records    decisions, pure
act, cleanup, sleep, events                    executing transitions
watch, probes, engine_logs, log_tail, load_progress    background tasks: probes and logs
publish, recovery                              the State, and a restart of control itself
runtime, supervisord_client                    shared by all parts; supervisord's XML-RPC
status                                         `berth status` and `berth reload`
"""

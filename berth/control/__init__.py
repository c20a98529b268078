"""control runs for ever and is the only one that starts and stops engines. If it dies, routers go on without it.

records: what it knows of its replicas. lifecycle: their state machine, pure. restarts: the brake on crash loops.
leases: one start or stop at a time per GPU. supervisor: supervisord's XML-RPC. health: probes. progress: how far a
start is. misfortune, oom, deaths: why an engine died. tail, logs: the engines' logs. gpu: NVML. remnants: what dead
engines leave behind. publish: the State for the routers. takeover: what a new control finds. words: what the operator
is told. keeper: the loop that observes, decides and acts. main: the program. report: `berth status`.
"""

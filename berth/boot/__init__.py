"""boot runs once: environment variables become a Plan, a supervisord configuration and a running supervisord.

config        environment -> Settings and ModelSpec, without I/O
checkpoints   the files of models: metadata, cache, downloads, archives
planner       Settings and HostInfo -> Plan, without I/O
foreground    the process that stays in the foreground: signals and one log stream

main          `berth boot`, `plan` and `config`: the edges
engine_exec   `berth exec`, which every engine starts under
preflight     is this host fit to serve?     doctor: `berth doctor`
supervisord_conf   Plan -> supervisord.conf                 api_keys   reads the keys' files again, for control
"""

"""boot runs once: environment variables become a Plan, a supervisord configuration and a running supervisord.

settings: the table of variables. specs: BERTH_MODELS. reference: their documentation. gpus: NVML. hub: config.json of
a model before it is downloaded. memory, placement, choice, planning: the Plan. report: the Plan for people.
supervisord: its configuration. machine, doctor: is this machine fit. launch: the edges, and `berth exec`.
"""

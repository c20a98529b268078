"""boot runs once: environment variables become a Plan, a supervisord configuration and a running supervisord.

What is wanted   settings: the parsed environment. variables: the one table of them. values, value_files, cpus: how
                 they are read. reference: their documentation.
                 specs: BERTH_MODELS, in short form (model_line) and in YAML (model_yaml, engine_yaml, tree_fields,
                 yaml_tree); model_spec: what both become; model_rules: what models say about each other.
What there is    surroundings: all of it, looked at once. gpus: NVML. hub, directory, checkpoint: a model's numbers,
                 before it is downloaded. choice: the engines that are installed, and which one is taken.
What is decided  planning: the Plan, in stages: wanted, allotment, replicas. memory: the sums. placement: who goes
                 where. shortfall: why it does not fit, and what would. report: the Plan for people.
What is fetched  download: a hub model, before its engine starts (transfer: one large file; gauge: how far;
                 room: does it fit). hub_model, model_files, cache: what is wanted and what is there. sources: all of a
                 plan. fetch, fetch_hub: `berth fetch`. export, importing, archive: `berth export` and `berth import`.
What is done     launch: the edges. machine, prerequisites, cuda, control_groups, doctor: is
                 this machine fit. supervisord: its configuration. attendants:
                 the processes beside it. foreground: the one that shows what all say, on standard_output.
                 leader: `berth exec`.
"""

"""Settings and HostInfo -> Plan. Pure.

    ModelSpec -> ResolvedModel -> GpuRequest -> Allocation -> LaunchOrder -> Replica

inputs                 HostInfo: facts about the host
resolve                ModelSpec -> ResolvedModel: with metadata and engines; engine_choice selects them
model_options          the settings that engines spell differently, as each engine and GPU can have them
fit                    GpuRequest and Allocation: what a model needs and gets, and why the models do not fit
allocation             ResolvedModel -> GpuRequest -> Allocation
attached               the addresses of servers that run elsewhere, and what they say about themselves
nodes, boxes           models over several boxes
auto_order, revisions  which engine comes first: by a result of `berth bench`, by a migration
remote_code            models that need Python code of their checkpoint: refused unless the user allows it
variants               other variants of a model that fit, for the error and for `variant: auto`
requirements           disk, memory and driver that the models need
replicas, build        the replicas, and the Plan
origins, table         what decided about each figure, and the Plan for people
"""

"""Settings and HostInfo -> Plan. Pure.

    ModelSpec -> ResolvedModel -> GpuRequest -> Allocation -> LaunchOrder -> Replica

inputs                 HostInfo: facts about the host
resolve                ModelSpec -> ResolvedModel: with metadata and engines; engine_choice selects them
model_options          the settings that engines spell differently, as each engine and GPU can have them
gpu_request            GpuRequest and Allocation: what a model needs and gets, by the formulas of memory
allocation, placement  ResolvedModel -> GpuRequest -> Allocation; sharing divides what is left
remote_code            models that need Python code of their checkpoint: refused unless the user allows it
variants               other variants of a model that fit, for the error and for `variant: auto`
fit_report             why the models do not fit
requirements           disk, memory and driver that the models need
replicas, build        the replicas, and the Plan
origins, table         what decided about each figure, and the Plan for people
"""

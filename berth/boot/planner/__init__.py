"""Settings and HostInfo -> Plan. Pure.

inputs      HostInfo: facts about the host       resolve        ModelSpec -> model with metadata and engines
requirements, engine_choice                      which engines can serve a model here
memory, placement, allocation                    how much memory, on which GPUs
fit_report  why a model does not fit
replicas, build                                  the Plan                           table        the Plan for people
"""

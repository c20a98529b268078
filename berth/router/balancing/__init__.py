"""Which replica a request goes to, and when.

model_catalog   public names       upstreams   the replicas' live state      selection, affinity   their order
admission, queue   slots and who waits for one     circuit_breaker, hang_detector   which replicas are left out
limits, rates   what a client's key may use                        fairness   whose turn it is in a queue
"""

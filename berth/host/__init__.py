"""Facts about this host, for boot and control alike; no decisions: GPUs, cgroups, disk, OOM kills, installed engines."""

"""Facts about this host, for boot and control; no decisions.

gpus, gpu_usage: NVML. cgroup: CPUs and memory. disk. oom: OOM kills. installed_engines: engines and their CUDA.
"""

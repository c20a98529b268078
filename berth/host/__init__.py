"""Facts about this host, for boot, control and the router; no decisions.

gpus, gpu_usage      NVML: inventory, processes, memory in use
cgroup, oom          limits of CPU and memory; OOM kills
disk, net            writable folders and free space; free ports
installed_engines    engines, their versions and their CUDA
"""

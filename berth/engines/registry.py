"""All engines by name, with their probes and sleep requests."""

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

# Probes of attached engines: such an engine may be another version, or require an API key on other routes.
_ATTACHED: dict[DialectName, Probe] = {
    DialectName.VLLM: Probe(path="/health"),
    DialectName.SGLANG: Probe(path="/health", timeout_s=25.0),  # generates a token; its own timeout is 20 s
    DialectName.TRTLLM: Probe(path="/health_generate", timeout_s=30.0),
    DialectName.OPENAI: Probe(path="/v1/models", timeout_s=10.0),
}

_ENGINE_OF_DIALECT: dict[DialectName, EngineName] = {
    DialectName.VLLM: EngineName.VLLM,
    DialectName.SGLANG: EngineName.SGLANG,
    DialectName.TRTLLM: EngineName.TRTLLM,
    DialectName.OPENAI: EngineName.REMOTE,
}


def probes(engine: EngineName, dialect: DialectName) -> tuple[Probe, Probe]:
    """The readiness and the liveness probe. sim has those of the engine whose dialect it speaks."""
    if engine is EngineName.REMOTE:
        return _ATTACHED[dialect], _ATTACHED[dialect]
    one = ENGINES[_imitated(engine, dialect)]
    return one.ready, one.alive


def sleep(engine: EngineName, dialect: DialectName | None = None) -> Sleep | None:
    """The requests for sleeping and waking; None where it cannot sleep. `dialect`: sim's; None: its default."""
    return ENGINES[_imitated(engine, dialect or ENGINES[engine].dialect)].sleep


def _imitated(engine: EngineName, dialect: DialectName) -> EngineName:
    return _ENGINE_OF_DIALECT[dialect] if engine is EngineName.SIM else engine

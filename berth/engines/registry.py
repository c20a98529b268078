"""All engines and dialects by name."""

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

# How to ask an engine that Berth did not start: it may be of another version, or an API key may guard its routes.
_ATTACHED: dict[DialectName, Probe] = {
    DialectName.VLLM: Probe(path="/health"),
    DialectName.SGLANG: Probe(path="/health", timeout_s=25.0),  # generates a token, and gives up after 20 s
    DialectName.TRTLLM: Probe(path="/health_generate", timeout_s=30.0),
    DialectName.OPENAI: Probe(path="/v1/models", timeout_s=10.0),
}

_OF_DIALECT: dict[DialectName, EngineName] = {
    DialectName.VLLM: EngineName.VLLM,
    DialectName.SGLANG: EngineName.SGLANG,
    DialectName.TRTLLM: EngineName.TRTLLM,
    DialectName.OPENAI: EngineName.REMOTE,
}


def probes(engine: EngineName, dialect: DialectName) -> tuple[Probe, Probe]:
    """The probes for readiness and for life. sim answers as the engine does whose dialect it speaks."""
    if engine is EngineName.REMOTE:
        return _ATTACHED[dialect], _ATTACHED[dialect]
    one = ENGINES[_spoken(engine, dialect)]
    return one.ready, one.alive


def sleep(engine: EngineName, dialect: DialectName | None = None) -> Sleep | None:
    """How it is put to sleep and woken; None for one that cannot sleep. `dialect`: sim's, None for its usual one."""
    return ENGINES[_spoken(engine, dialect or ENGINES[engine].dialect)].sleep


def _spoken(engine: EngineName, dialect: DialectName) -> EngineName:
    return _OF_DIALECT[dialect] if engine is EngineName.SIM else engine

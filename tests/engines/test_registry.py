from pathlib import Path

import pytest

from berth.dialects.registry import DIALECTS
from berth.engines.registry import CHECKED_VERSIONS, ENGINES, probes, sleep
from berth.plan import DialectName, EngineName


def test_every_name_has_an_engine_and_a_dialect() -> None:
    assert {name: engine.name for name, engine in ENGINES.items()} == {name: name for name in EngineName}
    assert {name: dialect.name for name, dialect in DIALECTS.items()} == {name: name for name in DialectName}
    assert {engine.dialect for engine in ENGINES.values()} <= set(DIALECTS)


@pytest.mark.parametrize(
    ("engine", "dialect", "path"),
    [
        (EngineName.VLLM, DialectName.VLLM, "/health"),
        (EngineName.SGLANG, DialectName.SGLANG, "/ready"),
        (EngineName.TRTLLM, DialectName.TRTLLM, "/health_generate"),
        (EngineName.SIM, DialectName.SGLANG, "/ready"),
        (EngineName.SIM, DialectName.TRTLLM, "/health_generate"),
        (EngineName.SIM, DialectName.VLLM, "/health"),
        (EngineName.REMOTE, DialectName.OPENAI, "/health/liveliness"),
        (EngineName.REMOTE, DialectName.LLAMACPP, "/health"),
        (EngineName.REMOTE, DialectName.OPENAI_CLOUD, "/v1/models"),
        (EngineName.REMOTE, DialectName.SGLANG, "/health"),
    ],
)
def test_probes_of_each_engine(engine: EngineName, dialect: DialectName, path: str) -> None:
    ready, alive = probes(engine, dialect)

    assert ready.path == alive.path == path


def test_engines_stop_within_the_shutdown_time() -> None:
    assert max(engine.stop_timeout_s for engine in ENGINES.values()) <= 10


@pytest.mark.parametrize(
    ("engine", "dialect", "path"),
    [
        (EngineName.VLLM, None, "/sleep?level=1"),
        (EngineName.SGLANG, DialectName.SGLANG, "/release_memory_occupation"),
        (EngineName.SIM, None, "/sleep?level=1"),
        (EngineName.SIM, DialectName.SGLANG, "/release_memory_occupation"),
        (EngineName.SIM, DialectName.TRTLLM, ""),
        (EngineName.TRTLLM, None, ""),
        (EngineName.REMOTE, DialectName.VLLM, ""),
    ],
)
def test_sleep_requests_of_each_engine(engine: EngineName, dialect: DialectName | None, path: str) -> None:
    found = sleep(engine, dialect)

    assert (found.sleep_path if found else "") == path


def test_the_checked_versions_are_those_of_the_contract() -> None:
    found: dict[EngineName, set[str]] = {}
    for file in (Path(__file__).parents[2] / "etc/tools/contract/snapshots").glob("*.json"):
        target, _, version = file.stem.rpartition("-")
        found.setdefault(EngineName(target.removesuffix("-cpu")), set()).add(version)
    assert {engine: set(versions) for engine, versions in CHECKED_VERSIONS.items()} == found

"""Everything that the engines write is read by a parser rebuilt from each snapshot of an engine's own options."""

import dataclasses
import re
from functools import cache
from pathlib import Path

import pytest

from berth.engines.base import Engine, LaunchOrder
from berth.engines.registry import ENGINES
from berth.plan import EngineName
from etc.tools.contract.check import Written, check, own_flags, used_elsewhere, written
from etc.tools.contract.launches import launches
from etc.tools.contract.locks import Locked, locked
from etc.tools.contract.parser import SnapshotParser
from etc.tools.contract.table import SNAPSHOTS, Snapshot, read_all
from etc.tools.contract.targets import BY_NAME

# thousands of command lines through a parser in Python
pytestmark = [pytest.mark.timeout(60), pytest.mark.unmeasured]

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "etc/compose").glob("*.yaml"))]
ARGUMENTS = re.compile(r"\b(vllm|sglang|trtllm): \{args: (\[[^\]]*\])")
# Fields that matter to no command line, or that are always the same in one: where things lie.
CANNOT = {
    "vllm": set(),
    "vllm-cpu": {"gpus"},
    "sglang": {"socket"},
    "trtllm": {"task", "dtype", "sleeps", "socket", "adapters", "spare_adapters", "ranks"},
}
FIXED = {"replica", "served_name", "host", "port", "home", "version", "python", "run_dir", "data_dir", "dialect"}


@cache
def snapshots() -> list[Snapshot]:
    return read_all(SNAPSHOTS)


@cache
def everything() -> dict[str, Written]:
    return {name: written(target) for name, target in BY_NAME.items()}


def of(engine: str) -> Snapshot:
    return next(snapshot for snapshot in snapshots() if snapshot.engine == engine)


@pytest.mark.parametrize("lock", locked(), ids=lambda lock: f"{lock.target.name}-{lock.version}")
def test_every_locked_version_has_a_snapshot(lock: Locked) -> None:
    assert (lock.target.name, lock.version) in {(snapshot.engine, snapshot.version) for snapshot in snapshots()}


@pytest.mark.parametrize("snapshot", snapshots(), ids=lambda snapshot: snapshot.title)
def test_engine_accepts_all_command_lines(snapshot: Snapshot) -> None:
    target = BY_NAME[snapshot.engine]

    verdict = check(target, snapshot, everything()[target.name], used_elsewhere(target, snapshots(), everything()))

    assert verdict.problems == ()


@pytest.mark.parametrize("engine", BY_NAME)
def test_every_engine_is_locked(engine: str) -> None:
    assert engine in {lock.target.name for lock in locked()}


@pytest.mark.parametrize(
    ("engine", "flag"), [("vllm", "--shutdown-timeout"), ("sglang", "--api-key"), ("trtllm", "--host")]
)
def test_detects_a_removed_option(engine: str, flag: str) -> None:
    snapshot = of(engine)
    without = tuple(option for option in snapshot.options if flag not in option.flags)

    verdict = check(BY_NAME[engine], dataclasses.replace(snapshot, options=without), everything()[engine])

    assert any(flag in problem for problem in verdict.problems)


def test_positional_model_is_parsed() -> None:
    arguments = SnapshotParser(of("vllm")).read(everything()["vllm"].command_lines()[0])

    assert arguments.model_tag == "Qwen/Qwen3-8B"
    assert arguments.served_model_name == ["team/chat:8b"]


def test_variables_for_all_builds_need_not_be_read_by_each() -> None:
    excused = used_elsewhere(BY_NAME["vllm-cpu"], snapshots(), everything())

    assert "VLLM_CACHE_ROOT" in excused  # vLLM for the GPU reads it
    assert "SGLANG_CACHE_DIR" not in excused  # no other engine gets it


@pytest.mark.parametrize("engine", BY_NAME)
def test_separates_the_users_arguments(engine: str) -> None:
    flags = own_flags(everything()[engine])

    assert not {"--max-num-queued-reqs", "--schedule-policy", "--max_batch_size"} & flags
    assert "--host" in flags


@pytest.mark.parametrize("engine", BY_NAME)
def test_varies_every_field_of_an_order(engine: str) -> None:
    seen: dict[str, set[object]] = {}
    for order, _ in launches(BY_NAME[engine]):
        for field in dataclasses.fields(LaunchOrder):
            seen.setdefault(field.name, set()).add(getattr(order, field.name))

    same = {name for name, values in seen.items() if len(values) == 1}

    assert same == FIXED | CANNOT[engine]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_arguments_in_the_documents_exist(document: Path) -> None:
    for engine, arguments in ARGUMENTS.findall(document.read_text()):
        known = {flag for option in of(engine).options for flag in option.flags}
        assert set(re.findall(r"(?<![\w-])--[\w-]+", arguments)) <= known


def test_every_engine_implements_the_protocol() -> None:
    engines: list[Engine] = list(ENGINES.values())

    assert {engine.name for engine in engines} == set(EngineName)

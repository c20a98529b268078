"""`berth doctor` with good, bad and half-good configurations, on this machine."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from berth import __version__, processes
from berth.boot import doctor
from berth.boot.config.settings import Settings
from berth.boot.preflight import Finding, Level, What
from berth.build_form import FORM, VERSION_AND_FORM
from berth.errors import MachineError, PlacementError
from berth.plan import RunPaths
from berth.processes import ProcessRecord
from berth.state import ReplicaState, State
from berth.state import ReplicaStatus as S
from tests.fakes.api_keys import api_key, api_keys

Environ = dict[str, str]


@pytest.fixture
def port() -> int:
    """A free port."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def environ(tmp_path: Path, port: int) -> Environ:
    return {
        "BERTH_MODELS": "chat=http://127.0.0.1:9/v1",
        "BERTH_HOST": "127.0.0.1",
        "BERTH_PORT": str(port),
        "BERTH_RUN_DIR": str(tmp_path / "run"),
        "BERTH_DATA": str(tmp_path / "data"),
        "BERTH_ENGINE_HOME": str(tmp_path / "engines"),
    }


def levels(environ: Environ, what: What) -> list[Level]:
    return [finding.level for finding in doctor.examine(environ) if finding.what is what]


def write_model(folder: Path) -> Path:
    """The files of a model, as far as anybody looks at them."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}')
    (folder / "model.safetensors").write_bytes(bytes(16))
    (folder / "tokenizer.json").write_text("{}")
    return folder


def test_valid_configuration_passes(environ: Environ, tmp_path: Path) -> None:
    text, code = doctor.report(environ)
    assert code == 0
    assert f"OK    berth           {VERSION_AND_FORM}" in text
    assert "OK    configuration   1 model(s), all variables are valid" in text
    assert "OK    plan            chat-attached (attached by its URL; it does not answer now" in text
    assert text.splitlines()[-1].startswith("Nothing failed, ")
    assert list(tmp_path.iterdir()) == []


def test_reports_as_json(environ: Environ) -> None:
    text, code = doctor.report(environ, as_json=True)
    report = json.loads(text)
    assert (report["version"], report["form"], report["ok"], code) == (__version__, FORM, True, 0)
    assert {
        "level": "ok",
        "what": "port",
        "detail": f"127.0.0.1:{environ['BERTH_PORT']} is free",
        "remedy": "",
    } in report["findings"]


def test_checks_the_host_despite_an_invalid_configuration(environ: Environ) -> None:
    wrong = environ | {"BERTH_MODELS": "", "BERTH_WORKRS": "2", "BERTH_LOG_LEVEL": "loud", "HF_TOKEN": "a b"}
    text, code = doctor.report(wrong)
    assert code == 1
    for name in ("BERTH_MODELS", "BERTH_WORKRS", "BERTH_LOG_LEVEL", "HF_TOKEN"):
        assert f"FAIL  configuration   {name}" in text
    assert f"OK    port            127.0.0.1:{environ['BERTH_PORT']} is free" in text
    assert "a b" not in text
    assert text.splitlines()[-1].startswith("4 failed, ")


def test_missing_key_file_is_one_configuration_problem(environ: Environ) -> None:
    assert levels(environ | {"BERTH_API_KEYS_FILE": "/nowhere"}, What.CONFIG) == [Level.FAIL]


@pytest.mark.parametrize(
    ("error", "what"), [(PlacementError("GPU 0:\n  80 GiB"), What.PLAN), (MachineError("no ports"), What.PLAN)]
)
def test_models_that_do_not_fit_fail(
    environ: Environ, monkeypatch: pytest.MonkeyPatch, error: Exception, what: What
) -> None:
    def make_plan(*_arguments: object) -> object:
        raise error

    monkeypatch.setattr(doctor, "make_plan", make_plan)
    assert levels(environ, what) == [Level.FAIL]
    assert str(error).splitlines()[-1] in doctor.report(environ)[0]


def test_missing_source_fails_in_plan_and_files(environ: Environ) -> None:
    wrong = environ | {"BERTH_MODELS": "chat=/nowhere@vllm"}
    assert Level.FAIL in levels(wrong, What.CONFIG)
    assert levels(wrong, What.MODEL) == [Level.FAIL]


@pytest.fixture
def taken(port: int) -> Iterator[None]:
    with closing(socket.create_server(("127.0.0.1", port))):
        yield


@pytest.mark.usefixtures("taken")
def test_port_in_use_fails_unless_by_this_appliance(environ: Environ) -> None:
    paths = RunPaths(run_dir=environ["BERTH_RUN_DIR"], data_dir="/")
    record = processes.supervisor_record(paths)
    assert levels(environ, What.PORT) == [Level.FAIL]
    record.parent.mkdir()
    processes.write_record(record, replace(ProcessRecord.current(), start_ticks=1))
    assert levels(environ, What.PORT) == [Level.FAIL]
    processes.write_record(record, ProcessRecord.current())
    assert levels(environ, What.PORT) == [Level.OK]
    assert f"(supervisord has pid {os.getpid()})" in doctor.report(environ)[0]


def test_names_attached_servers_that_get_no_requests(environ: Environ) -> None:
    paths = RunPaths(run_dir=environ["BERTH_RUN_DIR"], data_dir="")
    paths.state.parent.mkdir()
    reasons = {"a": "wrong key: Invalid API Key", "b": "exit code 1", "c": ""}
    states = [
        ReplicaState(name=name, status=S.READY if name == "c" else S.UNHEALTHY, since=0, reason=reason)
        for name, reason in reasons.items()
    ]
    paths.state.write_bytes(State(sequence=1, published_at=0, control_pid=1, replicas=tuple(states)).to_json())
    assert "attached:" not in doctor.report(environ)[0]

    processes.write_record(processes.supervisor_record(paths), ProcessRecord.current())
    assert "a is attached: wrong key: Invalid API Key" in doctor.report(environ)[0]
    assert "b is attached" not in doctor.report(environ)[0]

    paths.state.write_bytes(b"{}")
    assert "is attached" not in doctor.report(environ)[0]


def test_lists_engines_with_versions(environ: Environ) -> None:
    assert levels(environ, What.ENGINE) == [Level.WARN]
    home = Path(environ["BERTH_ENGINE_HOME"], "vllm")
    metadata = home / "lib/python3.12/site-packages/vllm-0.33.0.dist-info/METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.33.0\n")
    (home / "bin").mkdir()
    (home / "bin/python").touch(0o755)
    text, _ = doctor.report(environ)
    assert f"OK    engine          vllm 0.33.0 in {home}" in text
    assert "OK    engine          sglang is not installed" in text


def test_complete_local_model_passes(environ: Environ, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    assert levels(environ | {"BERTH_MODELS": f"chat={folder}@vllm"}, What.MODEL) == [Level.OK]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("config.json", "has no config.json"),
        ("model.safetensors", "safetensors"),
        ("tokenizer.json", "has no tokenizer (tokenizer.json, "),
    ],
)
def test_names_missing_files_of_a_local_model(environ: Environ, tmp_path: Path, name: str, words: str) -> None:
    folder = write_model(tmp_path / "model")
    (folder / name).unlink()
    found = doctor.examine(environ | {"BERTH_MODELS": f"chat={folder}@vllm"})
    [finding] = [finding for finding in found if finding.what is What.MODEL]
    assert finding.level is Level.FAIL
    assert words in finding.detail


def cached(environ: Environ) -> Path:
    """The hub's cache with a complete model org/chat in it."""
    home = Path(environ["BERTH_DATA"], "huggingface/hub/models--org--chat")
    (home / "refs").mkdir(parents=True)
    (home / "refs/main").write_text("abc")
    return write_model(home / "snapshots/abc")


def test_offline_hub_models_must_be_complete_in_the_cache(environ: Environ) -> None:
    offline = environ | {"BERTH_MODELS": "chat=org/chat@vllm", "BERTH_OFFLINE": "1"}
    assert levels(offline, What.MODEL) == [Level.FAIL]
    folder = cached(offline)
    assert levels(offline, What.MODEL) == [Level.OK]
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}')
    (folder / "1.safetensors").write_bytes(b"")
    assert f"'org/chat' lacks 2.safetensors in {str(folder)!r}" in doctor.report(offline)[0]
    assert "-> Run `berth fetch` with this data directory where there is a network" in doctor.report(offline)[0]


def test_offline_checks_extra_repositories_too(environ: Environ) -> None:
    models = "chat: {source: org/chat, engines: [vllm], extra_sources: [org/draft]}"
    cached(environ)
    offline = environ | {"BERTH_MODELS": models, "BERTH_OFFLINE": "1"}
    assert levels(offline, What.MODEL) == [Level.OK, Level.FAIL]
    assert "no 'org/draft' in " in doctor.report(offline)[0]


def test_does_not_check_models_that_can_be_downloaded(environ: Environ) -> None:
    assert doctor.model_files(doctor.configuration(environ | {"BERTH_MODELS": "chat=org/chat@vllm"})[0]) == []
    assert levels(environ | {"BERTH_MODELS": "chat=org/chat@sim", "BERTH_OFFLINE": "1"}, What.MODEL) == []


def test_unreadable_model_is_a_failure(environ: Environ, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_source: str, _folder: Path) -> None:
        raise PermissionError(13, "Permission denied")

    folder = write_model(tmp_path / "model")
    monkeypatch.setattr(doctor, "from_folder", refuse)
    assert "cannot be read: Permission denied" in doctor.report(environ | {"BERTH_MODELS": f"chat={folder}@vllm"})[0]


def test_planning_gives_the_plan_or_the_reason(environ: Environ) -> None:
    settings, _findings = doctor.configuration(environ)
    missing, _findings = doctor.configuration(environ | {"BERTH_MODELS": "chat=/nowhere@vllm"})

    plan, findings = doctor.planning(settings, environ)
    assert plan is not None
    assert (findings[0].level, findings[0].what) == (Level.OK, What.PLAN)
    plan, findings = doctor.planning(missing, environ)
    assert plan is None
    assert [finding.level for finding in findings] == [Level.FAIL] * len(findings) != []
    assert doctor.planning(Settings(models=()), environ) == (None, [])


def test_text_has_remedies_and_a_summary() -> None:
    findings = [
        Finding(level=Level.OK, what=What.PORT, detail="free"),
        Finding(level=Level.FAIL, what=What.RAM, detail="too little\nby far", remedy="Add some"),
    ]

    assert doctor.as_text(findings).splitlines()[1:] == [
        f"FAIL  {What.RAM:<15} too little",
        f"{'':<22}by far",
        f"{'':<22}-> Add some",
        "",
        "1 failed, 0 warning(s): Berth would not start.",
    ]
    assert doctor.as_text(findings[:1]).endswith("Nothing failed, 0 warning(s): Berth would start.")


def test_short_keys_are_named() -> None:
    keys = (*api_keys("short", "another"), api_key("long-enough-to-be-a-key", name="key-3"))
    (finding,) = doctor.keys(Settings(models=(), api_keys=keys))

    assert (finding.level, "key-1, key-2" in finding.detail, "berth key new" in finding.remedy) == (
        Level.WARN,
        True,
        True,
    )
    assert doctor.keys(Settings(models=(), api_keys=keys[2:])) == []

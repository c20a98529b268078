"""The report of an appliance that runs, of one that does not, and of one whose files are damaged."""

import io
import os
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from berth.cli.main import main
from berth.errors import UnwritableError
from berth.ipc import journal
from berth.plan import Configured, Keys, read_plan
from berth.records import audit
from berth.report import archive
from berth.report.archive import box_of, collected, of_appliance, report
from berth.report.parts import PARTS
from berth.state import ReplicaStatus
from tests.fakes.api_keys import api_keys
from tests.fakes.router import make_plan, publish, replica, replica_state

QUERY = "planted-in-a-query"  # alone it looks like any word
PLANTED = {
    "hub": "hf_planted-in-the-environment",
    "admin": "planted-as-the-admin-key",
    "client": "planted-as-a-clients-key",
    "proxy": "planted-in-a-proxys-url",
    "header": "planted-in-a-header",
    "engine": "planted-for-an-engine",
    "file": "planted-in-a-file-of-keys",
    "cloud": "planted/by+another=program",
}


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    file = tmp_path / "keys.yaml"
    file.write_text(f"alice: {{key: {PLANTED['file']}}}\n")
    for folder in ("run", "data"):
        (tmp_path / folder).mkdir()
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "BERTH_MODELS": f"m: {{source: any, engines: [{{engine: sim, env: {{MINE: {PLANTED['engine']}}}}}]}}",
        "BERTH_RUN_DIR": str(tmp_path / "run"),
        "BERTH_DATA": str(tmp_path / "data"),
        "BERTH_ENGINE_HOME": str(tmp_path / "engines"),
        "BERTH_API_KEYS_FILE": str(file),
        "BERTH_ADMIN_KEY": PLANTED["admin"],
        "HF_TOKEN": PLANTED["hub"],
        "HTTPS_PROXY": f"http://me:{PLANTED['proxy']}@proxy:3128",
        "OTEL_EXPORTER_OTLP_HEADERS": f"x-team={PLANTED['header']}",
        "AWS_SECRET_ACCESS_KEY": PLANTED["cloud"],
        "TZ": "UTC",
    }


def plant(environ: dict[str, str]) -> None:
    """An appliance that has run here, whose engine said all that it should not."""
    plan = make_plan(environ["BERTH_RUN_DIR"], [replica("m-sim", "http://127.0.0.1:1", launched=True)])
    plan.paths.plan.write_bytes(plan.to_json())
    keys = Keys(api_keys=api_keys(PLANTED["client"]), upstream_keys={"m-sim": PLANTED["engine"]})
    plan.paths.keys.write_bytes(keys.to_json())
    said = " ".join([*PLANTED.values(), f"GET /x?api_key={QUERY}", f"by http://me:{PLANTED['proxy']}@proxy"])
    state = replica_state("m-sim", ReplicaStatus.FAILED, reason=f"it said {said}", last_lines=(said,))
    publish(plan, state)
    plan.paths.logs.mkdir()
    text = f"Loading weights\nheaders: {{'x-api-key': '{PLANTED['client']}'}}\n{said}\n"
    plan.paths.replica_log("m-sim").write_text(text)
    journal.reserve(plan.paths.journal, 1)
    entry = audit.Entry(t=1.0, who="someone", what=f"wrote {PLANTED['hub']}", result="done")
    audit.append(environ["BERTH_DATA"], entry)
    Path(environ["BERTH_DATA"], "berth", "measured.json").write_text(f'{{"note": "{PLANTED["header"]}"}}')


def members(data: bytes) -> dict[str, str]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as found:
        files = {one.name.partition("/")[2]: found.extractfile(one) for one in found.getmembers()}
        return {name: file.read().decode() for name, file in files.items() if file}


def test_no_planted_secret_is_in_it(environ: dict[str, str]) -> None:
    plant(environ)

    texts = collected(environ)

    found = [(name, secret) for name, text in texts.items() for secret in (*PLANTED.values(), QUERY) if secret in text]
    assert found == []
    assert "it said *** " in texts["state.json"]
    assert texts["logs/m-sim.log"].startswith("Loading weights\n")
    assert "HF_TOKEN=***" in texts["environment.txt"]
    assert "AWS_SECRET_ACCESS_KEY" in texts["environment.txt"]
    assert "***@proxy:3128" in texts["environment.txt"]
    assert "m-sim" in texts["plan-now.txt"]
    assert texts["plan.json"].startswith("{")


def test_what_is_missing_is_said(environ: dict[str, str]) -> None:
    """Berth was never started here."""
    texts = collected(environ)

    missing = texts["README.txt"].partition("Missing, and why:")[2]
    for name in ("plan.txt", "status.txt", "state.json", "metrics.txt", "operations.json", "requests.jsonl", "logs"):
        assert f"    {name}: " in missing
    assert "cannot be read: No such file or directory" in missing
    available = ("versions.json", "configuration.txt", "doctor.txt", "plan-now.txt", "container.json", "gpus.txt")
    assert texts.keys() >= {*available, "environment.txt"}
    assert "config" in texts["doctor.txt"]
    assert set(texts) | {line.strip().partition(":")[0] for line in missing.splitlines()} >= PARTS.keys()


def test_a_program_of_berth_reports_with_the_environment_of_the_container(environ: dict[str, str]) -> None:
    plant(environ)
    run_dir = environ["BERTH_RUN_DIR"]
    own = {"PATH": "/bin", "HTTPS_PROXY": "p"}  # what a program has
    with subprocess.Popen([sys.executable, "-c", "input()"], env=environ, stdin=subprocess.PIPE) as first:
        found, whole = of_appliance(own, run_dir, first.pid)
        assert (found["BERTH_MODELS"], whole) == (environ["BERTH_MODELS"], True)
        no_berth, whole = of_appliance(own, run_dir, os.getpid())
        folders = {"BERTH_RUN_DIR": run_dir, "BERTH_DATA": read_plan(run_dir).paths.data_dir}
        assert (no_berth, whole) == (own | folders, False)
        Path(environ["HOME"], "other").mkdir()
        other = make_plan(environ["HOME"] + "/other", [])
        other.paths.plan.write_bytes(other.to_json())
        another_berth, whole = of_appliance(own, other.paths.run_dir, first.pid)
        assert (set(another_berth), whole) == ({*own, *folders}, False)


def test_without_the_environment_the_rest_is_reported(environ: dict[str, str]) -> None:
    plant(environ)
    plan = read_plan(environ["BERTH_RUN_DIR"])
    setting = Configured(name="BERTH_PORT", value="8123", origin="environment")
    plan.paths.plan.write_bytes(replace(plan, configuration=(setting,)).to_json())

    kept = {name: value for name, value in environ.items() if not name.startswith(("BERTH_MODELS", "BERTH_A"))}
    texts = collected(kept, whole=False)

    missing = texts["README.txt"].partition("Missing, and why:")[2]
    assert "environment.txt: it needs the environment" in missing
    assert "plan-now.txt" not in texts
    assert "BERTH_PORT=8123  (environment)" in texts["configuration.txt"]
    assert "it said " in texts["state.json"]
    secrets = {PLANTED[name] for name in ("client", "engine", "hub", "proxy")}  # known to what is left, or by form
    assert [(name, secret) for name, text in texts.items() for secret in secrets if secret in text] == []


def test_an_invalid_configuration_and_damaged_files_hide_nothing_else(environ: dict[str, str]) -> None:
    plant(environ)
    environ |= {"BERTH_PORT": "many", "BERTH_PROT": "8000"}
    Path(environ["BERTH_RUN_DIR"], "state.json").write_bytes(b"\0" * 100)
    Path(environ["BERTH_DATA"], "berth", "measured.json").write_bytes(b"\xff")
    box = box_of(environ)
    assert (box.paths.data_dir, box.engine_home) == (environ["BERTH_DATA"], environ["BERTH_ENGINE_HOME"])

    texts = collected(environ)

    missing = texts["README.txt"].partition("Missing, and why:")[2]
    assert "    configuration.txt: " in missing
    assert "BERTH_PORT='many'" in missing
    assert "    state.json: " in missing
    assert "    measured.json: " in missing
    assert "Loading weights" in texts["logs/m-sim.log"]
    assert [name for name, text in texts.items() for secret in (*PLANTED.values(), QUERY) if secret in text] == []


def test_a_part_that_fails_in_an_unknown_way_is_named(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_box: object) -> str:
        raise KeyError(PLANTED["hub"])

    monkeypatch.setattr(archive, "PARTS", {"odd.txt": fail, "fine.txt": lambda _box: "x\n" * 3_000_000})
    texts = collected(environ)
    assert "    odd.txt: KeyError: '***'" in texts["README.txt"]
    assert len(texts["fine.txt"]) == archive.PART_CHARACTERS


def test_the_command_writes_a_file_or_the_standard_output(
    environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in environ.items():
        monkeypatch.setenv(name, text)
    file = tmp_path / "report.tar.gz"
    with pytest.raises(SystemExit) as ended:
        main(["report", "-o", str(file)])
    assert ended.value.code == 0
    assert {*members(file.read_bytes())} >= {"README.txt", "versions.json"}
    assert f"Written to {file}" in capsys.readouterr().err
    with pytest.raises(UnwritableError, match="File exists"):
        report(environ, str(file))

    command = [sys.executable, "-m", "berth", "report"]
    said = subprocess.run(command, env=environ, capture_output=True, check=True, timeout=120)
    assert "Written to standard output" in said.stderr.decode()
    found = members(said.stdout)
    assert found["README.txt"].startswith("A report of Berth")
    assert "Missing, and why:" in found["README.txt"]


def test_a_file_without_a_name_gets_one(
    environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(archive, "PARTS", {})
    assert report(environ, "") == 0
    (made,) = tmp_path.glob("berth-report-*.tar.gz")
    assert members(made.read_bytes()).keys() == {"README.txt"}

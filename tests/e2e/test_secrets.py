"""Engines ask for keys of their own, and no secret can be read where others look."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from berth.plan import Keys
from berth.report.archive import collected
from berth.report.parts import OF_ENVIRONMENT, PARTS
from tests.e2e.appliance import Appliance

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

CLIENT = "sk-of-alice"
GIVEN = {"BERTH_API_KEYS": CLIENT, "BERTH_ADMIN_KEY": "adm-of-bob", "HF_TOKEN": "hf_of-the-operator"}
OWN = "value-of-the-users-own"
MODELS = f"""
a: {{source: x, engines: [{{engine: sim, dialect: vllm, env: {{OWN_SETTING: {OWN}}}}}]}}
b: {{source: x, engines: [{{engine: sim, dialect: sglang}}]}}
"""


@pytest.fixture(scope="module")
def berth() -> Iterator[Appliance]:
    with Appliance(MODELS, **GIVEN) as appliance:
        yield appliance.wait_ready()


@pytest.fixture(scope="module")
def keys(berth: Appliance) -> Keys:
    return Keys.from_json(berth.paths.keys.read_bytes())


@pytest.fixture(scope="module")
def secrets(keys: Keys) -> list[str]:
    return [*GIVEN.values(), OWN, *keys.upstream_keys.values()]


def engines(berth: Appliance) -> dict[str, psutil.Process]:
    return {replica.name: psutil.Process(replica.pid) for replica in berth.state().replicas}


@pytest.fixture(autouse=True)
def _as_alice(berth: Appliance) -> None:
    berth.http.headers["authorization"] = f"Bearer {CLIENT}"


@pytest.mark.parametrize(("model", "path"), [("a", "/v1/models"), ("b", "/model_info")])
def test_engine_requires_its_key(berth: Appliance, keys: Keys, model: str, path: str) -> None:
    url = berth.plan().replica(f"{model}-sim").url + path
    other = "b-sim" if model == "a" else "a-sim"
    wrong = [{}, {"authorization": f"Bearer {CLIENT}"}, {"authorization": f"Bearer {keys.upstream_keys[other]}"}]

    statuses = [httpx.get(url, headers=headers, trust_env=False).status_code for headers in wrong]

    assert statuses == [401, 401, 401]
    right = {"authorization": f"Bearer {keys.upstream_keys[f'{model}-sim']}"}
    assert httpx.get(url, headers=right, trust_env=False).status_code == 200
    assert berth.chat(model).status_code == 200


def test_no_command_line_has_a_secret(berth: Appliance, secrets: list[str]) -> None:
    words = [word for process in berth.processes() for word in process.cmdline()]

    assert words
    assert [word for word in words for secret in secrets if secret in word] == []


def test_engine_has_only_its_own_secrets(berth: Appliance, keys: Keys, secrets: list[str]) -> None:
    seen = {name: process.environ().values() for name, process in engines(berth).items()}

    assert {one for one in secrets if one in seen["a-sim"]} == {OWN, keys.upstream_keys["a-sim"]}
    assert {one for one in secrets if one in seen["b-sim"]} == {keys.upstream_keys["b-sim"]}


def test_only_the_key_file_has_secrets(berth: Appliance, secrets: list[str]) -> None:
    files = [path for path in Path(berth.paths.run_dir).rglob("*") if path.is_file() and path != berth.paths.keys]

    holding = [path.name for path in files for secret in secrets if secret.encode() in path.read_bytes()]

    assert berth.paths.plan in files
    assert holding == []
    assert berth.paths.keys.stat().st_mode & 0o777 == 0o600


def test_no_log_or_response_has_a_secret(berth: Appliance, secrets: list[str]) -> None:
    shown = berth.output() + berth.get("/status").text + berth.get("/ready").text + berth.get("/metrics").text

    assert "a-sim" in shown
    assert [secret for secret in secrets if secret in shown] == []


def test_no_part_of_a_report_has_a_secret(berth: Appliance, secrets: list[str]) -> None:
    assert berth.chat("a", user=f"{secrets[0]} and http://me:{OWN}@host").status_code == 200
    berth.get(f"/v1/models?api_key={secrets[1]}")

    texts = collected(berth.environ)

    assert set(PARTS) - set(texts) <= {"measured.json"}  # there is nothing in it yet
    assert "berth_requests_total" in texts["metrics.txt"]
    assert '"model": "a"' in texts["requests.jsonl"]
    assert [(name, secret) for name, text in texts.items() for secret in secrets if secret in text] == []


def test_a_report_over_the_network_has_what_runs_and_no_secret(berth: Appliance, secrets: list[str]) -> None:
    answer = berth.http.get(
        "/admin/report", headers={"authorization": f"Bearer {GIVEN['BERTH_ADMIN_KEY']}"}, timeout=90
    )

    with tarfile.open(fileobj=io.BytesIO(answer.raise_for_status().content)) as archive:
        members = {one.name.partition("/")[2]: archive.extractfile(one) for one in archive}
        texts = {name: file.read().decode() for name, file in members.items() if file}
    missing = texts["README.txt"].partition("Missing, and why:")[2]
    assert "environment.txt: it needs the environment that Berth was started with" in missing
    assert "BERTH_ADMIN_KEY=***  (environment)" in texts["configuration.txt"]
    assert set(PARTS) - set(texts) <= {"measured.json", *OF_ENVIRONMENT}
    assert [(name, secret) for name, text in texts.items() for secret in secrets if secret in text] == []

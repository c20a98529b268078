"""Nothing that is secret can be seen: not in the process list, nor in logs, files and answers; and engines listen on
loopback only.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.image.container import TINY, WITH_MODEL, Container

pytestmark = [pytest.mark.image, pytest.mark.timeout(180)]

SECRETS = {
    "HF_TOKEN": "hf_verysecrettoken",
    "BERTH_API_KEYS": "key-of-alice,key-of-bob",
    "BERTH_ADMIN_KEY": "key-of-the-operator",
}
VALUES = [value for text in SECRETS.values() for value in text.split(",")]
LOOPBACK = {"0100007F", "00000000000000000000000001000000"}
LISTEN = "0A"
OWN_KEY = {"authorization": "Bearer key-of-alice"}


@pytest.fixture(scope="module")
def berth() -> Iterator[Container]:
    with Container(f"m=simulated@sim tiny={TINY}@sim", options=WITH_MODEL, **SECRETS) as container:
        container.http.headers.update(OWN_KEY)
        yield container.wait_ready()


def shown_in(text: str) -> list[str]:
    return [value for value in VALUES if value in text]


def test_keys_are_required(berth: Container) -> None:
    assert berth.chat("m").status_code == 200
    assert berth.http.post("/v1/chat/completions", json={}, headers={"authorization": "Bearer no"}).status_code == 401


def test_no_command_line_has_a_secret(berth: Container) -> None:
    assert shown_in(repr([process.argv for process in berth.processes()])) == []


def test_no_log_has_a_secret(berth: Container) -> None:
    berth.chat("m")
    assert shown_in(berth.logs()) == []
    assert shown_in(berth.execute("berth", "logs")) == []


@pytest.mark.parametrize("path", ["/status", "/ready", "/metrics", "/v1/models"])
def test_no_response_has_a_secret(berth: Container, path: str) -> None:
    assert shown_in(berth.get(path).text) == []


def test_no_command_output_has_a_secret(berth: Container) -> None:
    commands = ("berth config", "berth plan --json", "berth status --json", "berth doctor --json")
    for command in commands:
        assert shown_in(berth.execute("sh", "-c", f"{command} || true")) == [], command


def test_only_the_key_file_has_secrets(berth: Container) -> None:
    pattern = "|".join(VALUES)
    found = berth.execute("sh", "-c", f"grep -rlE '{pattern}' /run/berth /data /tmp 2>/dev/null || true").split()
    assert {Path(path).name for path in found} <= {"keys.json"}


def test_engines_and_supervisor_have_no_client_keys(berth: Container) -> None:
    for process in berth.processes():
        environ = berth.execute("sh", "-c", f"tr '\\0' '\\n' </proc/{process.pid}/environ 2>/dev/null || true")
        if process.pid != 1 and "docker-init" not in process.argv[0]:
            assert [value for value in shown_in(environ) if value != SECRETS["HF_TOKEN"]] == [], process.argv


def test_engine_with_a_local_model_has_no_hub_token(berth: Container) -> None:
    engine = berth.find("sim", "--dialect")
    assert SECRETS["HF_TOKEN"] not in berth.execute("sh", "-c", f"tr '\\0' '\\n' </proc/{engine.pid}/environ")


def test_only_the_router_listens_beyond_loopback(berth: Container) -> None:
    rows = [row.split() for table in ("tcp", "tcp6") for row in berth.read(f"/proc/net/{table}").splitlines()[1:]]
    listening = [row[1].split(":") for row in rows if row[3] == LISTEN]
    assert len(listening) >= 3
    assert {int(port, 16) for host, port in listening if host not in LOOPBACK} == {8000}


@pytest.mark.usefixtures("fake_gpus")
def test_engine_requires_a_hidden_key() -> None:
    options = ("--gpus", "all", "--env", "FAKE_GPUS=1", *WITH_MODEL)
    with Container(f"m={TINY}@sglang", options=options) as container:
        assert container.wait_ready().chat("m").status_code == 200
        engine = container.find("/opt/engines/sglang/bin/sglang")
        url = f"http://127.0.0.1:{engine.argv[engine.argv.index('--port') + 1]}/v1/models"
        code = container.execute("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", url)
        assert code == "401"
        key = str(yaml.safe_load(container.read(engine.argv[engine.argv.index("--config") + 1]))["api-key"])
        assert len(key) > 20
        shown = [*map(repr, container.processes()), container.logs(), container.get("/status").text]
        shown += [container.read(f"/run/berth/{file}") for file in ("plan.json", "state.json", "supervisord.conf")]
        assert [text for text in shown if key in text] == []


def test_keys_can_be_files(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("key-of-carol\n")
    keys.chmod(0o644)
    tmp_path.chmod(0o755)
    options = ("--volume", f"{keys}:/run/secrets/keys:ro")
    with Container("m=simulated@sim", options=options, BERTH_API_KEYS_FILE="/run/secrets/keys") as container:
        container.wait_ready()
        assert container.chat("m").status_code == 401
        container.http.headers["x-api-key"] = "key-of-carol"
        assert container.chat("m").status_code == 200
        assert "key-of-carol" not in str(container.inspect()["Config"])

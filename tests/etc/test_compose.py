"""compose.yaml and its examples: whole, alike where they should be, and configurations that Berth accepts."""

import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from berth.boot import preflight, supervisord_conf
from berth.boot.checkpoints.metadata import ModelInfo
from berth.boot.config.models import ModelSpec
from berth.boot.config.parsers import duration, size
from berth.boot.config.settings import Settings, load
from berth.boot.config.variables import VARIABLES
from berth.boot.planner.build import make_plan
from berth.host.interfaces import Interface
from berth.plan import Adapter, EngineName, Plan, Standby
from berth.plan.keys import digest
from berth.router.app import DOCUMENTS
from tests.fakes.api_keys import api_keys
from tests.fakes.machine import BGE_M3, QWEN_8B, gpus, host_info

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "compose.yaml"
EXAMPLES = sorted((ROOT / "etc/compose").glob("*.yaml"))
FILES = [COMPOSE, *EXAMPLES]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
TEMPORARY = "/tmp"  # noqa: S108 - in the container
DEFAULTS = load({"BERTH_MODELS": "m=x@sim"}, cpus=1)

# Set by the files themselves: where to listen is said by `ports`, and the paths are the image's.
OURS = {"BERTH_HOST", "BERTH_PORT", "BERTH_DATA", "BERTH_RUN_DIR", "BERTH_ENGINE_HOME"}
NOT_BERTHS = {"HF_ENDPOINT", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"}
NAMES = {var.name for var in VARIABLES}
FILE_NAMES = {var.file_name for var in VARIABLES if var.from_file}

QWEN_600M = replace(
    QWEN_8B, source="Qwen/Qwen3-0.6B", hidden_size=1024, layers=28, heads=16, weights_bytes=1_503_300_328
)
QWEN_4B = replace(QWEN_8B, source="Qwen/Qwen3-4B", hidden_size=2560, weights_bytes=8_044_982_000)
QWEN_32B = replace(
    QWEN_8B, source="Qwen/Qwen3-32B", hidden_size=5120, layers=64, heads=64, weights_bytes=65_524_246_528
)
HUB = {info.source: info for info in (QWEN_600M, QWEN_4B, QWEN_8B, QWEN_32B, BGE_M3)}

# File -> the GPUs (how many, of how many GB), and what comes of it: engine and GPUs of each replica.
OUTCOMES: dict[str, tuple[int, int, dict[str, tuple[str, tuple[int, ...]]]]] = {
    "compose.yaml": (1, 24, {"Qwen/Qwen3-0.6B": ("vllm", (0,))}),
    "several-models.yaml": (1, 80, {"chat": ("vllm", (0,)), "coder": ("vllm", (0,)), "embed": ("vllm", (0,))}),
    "swap.yaml": (1, 48, {"chat": ("vllm", (0,)), "coder": ("vllm", (0,)), "writer": ("vllm", (0,))}),
    "one-model-two-gpus.yaml": (2, 48, {"large": ("vllm", (0, 1))}),
    "one-model-per-gpu.yaml": (2, 24, {"chat": ("vllm", (0,)), "coder": ("vllm", (1,))}),
    "adapters.yaml": (1, 24, {"chat": ("vllm sglang", (0,))}),
    "fallback.yaml": (1, 24, {"chat": ("vllm sglang", (0,))}),
    "warm-standby.yaml": (1, 48, {"chat": ("vllm sglang", (0,))}),
    "hot-pair.yaml": (1, 48, {"chat": ("vllm sglang", (0,))}),
    "replicas.yaml": (4, 24, {"chat": ("vllm vllm vllm vllm", (0, 1, 2, 3))}),
    "attached-peer.yaml": (1, 24, {"chat": ("vllm remote", (0,)), "big": ("remote", ()), "local": ("remote", ())}),
    "secrets.yaml": (1, 24, {"chat": ("vllm remote", (0,))}),
    "keys.yaml": (1, 24, {"chat": ("vllm", (0,))}),
    "offline.yaml": (1, 80, {"chat": ("vllm", (0,)), "embed": ("vllm", (0,))}),
    "two-boxes.yaml": (1, 48, {"big": ("vllm", (0,))}),
    "no-gpu.yaml": (0, 0, {"chat": ("sim sim", ())}),
}


# What a file cannot have by itself, and asks for in its head.
ASKED = {"two-boxes.yaml": {"BERTH_NODES": "10.0.0.1,10.0.0.2", "BERTH_NODES_KEY": "key-of-the-boxes"}}
OF_A_FILE = {"no-gpu.yaml": {"deploy"}, "two-boxes.yaml": {"network_mode", "ports"}}  # the host's network has ports


def named(path: Path) -> str:
    return path.name


def service(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text())["services"]["berth"]
    return found


def environment(path: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """Of the container, as compose makes it: ${NAME:-default}, and names alone for what is passed on."""
    pattern = re.compile(r"\$\{(\w+):-([^}]*)\}")
    given = {}
    for name, value in service(path)["environment"].items():
        text = environ.get(name) if value is None else pattern.sub(lambda m: environ.get(m[1]) or m[2], value)
        if text is not None:
            given[name] = text
    return given


def settings(path: Path, folder: Path, **environ: str) -> Settings:
    """The secrets of the file lie in `folder`."""
    for name in yaml.safe_load(path.read_text()).get("secrets", {}):
        (folder / name).write_text(f"value-of-{name}\n")
    given = environment(path, ASKED.get(path.name, {}) | environ)
    return load({name: text.replace("/run/secrets/", f"{folder}/") for name, text in given.items()}, cpus=1)


def described(spec: ModelSpec) -> ModelInfo:
    adapters = (Adapter(name=one.name, source=one.source, rank=16, weights_bytes=40_000_000) for one in spec.adapters)
    return replace(HUB[spec.source], adapters=tuple(adapters))


def planned(path: Path, folder: Path) -> Plan:
    count, total_gib, _ = OUTCOMES[path.name]
    here = host_info(*gpus(count, total_gib=total_gib), describe=described)
    card = Interface(name="eth0", addresses=("10.0.0.1",))
    return make_plan(settings(path, folder), replace(here, interfaces=lambda: (card,)))


def tmpfs(path: Path) -> dict[str, dict[str, str]]:
    """Mount point -> options."""
    mounts = (entry.partition(":") for entry in service(path)["tmpfs"])
    return {
        place: {name: value for name, _, value in (option.partition("=") for option in options.split(","))}
        for place, _, options in mounts
    }


def test_there_is_an_outcome_for_every_file() -> None:
    assert {path.name for path in FILES} == set(OUTCOMES)


@pytest.mark.parametrize("path", FILES, ids=named)
def test_plans_its_models(path: Path, tmp_path: Path) -> None:
    plan = planned(path, tmp_path)
    shown = {}
    for route in plan.models:
        replicas = [plan.replica(name) for name in route.replicas]
        used = {gpu: None for replica in replicas for gpu in replica.gpus}
        shown[route.name] = (" ".join(replica.engine for replica in replicas), tuple(used))
    assert shown == OUTCOMES[path.name][2]


def test_standby_matches_the_file_name(tmp_path: Path) -> None:
    fallback = planned(ROOT / "etc/compose/fallback.yaml", tmp_path)
    warm = planned(ROOT / "etc/compose/warm-standby.yaml", tmp_path)
    pair = planned(ROOT / "etc/compose/hot-pair.yaml", tmp_path)
    assert [plan.models[0].standby for plan in (fallback, warm, pair)] == [Standby.COLD, Standby.WARM, Standby.HOT]
    assert [replica.sleep is not None for replica in warm.replicas] == [False, True]
    assert sum(replica.memory_fraction or 1 for replica in pair.replicas) <= DEFAULTS.gpu_memory_fraction


def test_adapters_are_models_for_clients(tmp_path: Path) -> None:
    plan = planned(ROOT / "etc/compose/adapters.yaml", tmp_path)
    assert [route.name for route in plan.routes] == ["chat", "law", "tone"]


def test_hot_pair_uses_a_gpu_each_if_there_are_two(tmp_path: Path) -> None:
    here = host_info(*gpus(2, total_gib=24), describe=described)
    plan = make_plan(settings(ROOT / "etc/compose/hot-pair.yaml", tmp_path), here)
    assert sorted(replica.gpus for replica in plan.replicas) == [(0,), (1,)]


def test_reads_keys_from_files(tmp_path: Path) -> None:
    found = settings(ROOT / "etc/compose/secrets.yaml", tmp_path)
    assert found.api_keys == api_keys("value-of-api_keys")
    assert (found.admin_key, found.hf_token) == ("value-of-admin_key", "value-of-hf_token")
    assert found.models[0].engines[1].api_key == "value-of-peer_key"


def test_keys_have_names_and_limits(tmp_path: Path) -> None:
    alice, ci = settings(ROOT / "etc/compose/keys.yaml", tmp_path).api_keys
    assert (alice.digests, alice.share, alice.tokens_per_day) == ((digest("key-of-alice"),), 2, 5_000_000)
    assert (ci.digests, ci.priority, ci.concurrency) == ((digest("key-of-ci"),), "low", 8)


def test_attached_model_names_its_url(tmp_path: Path) -> None:
    found = {model.name: model for model in settings(ROOT / "etc/compose/attached-peer.yaml", tmp_path).models}
    assert [entry.engine for entry in found["chat"].engines] == [EngineName.VLLM, EngineName.REMOTE]
    assert "host.docker.internal" in (found["local"].engines[0].url or "")
    assert service(ROOT / "etc/compose/attached-peer.yaml")["extra_hosts"] == ["host.docker.internal:host-gateway"]


def test_offline_means_offline(tmp_path: Path) -> None:
    assert settings(ROOT / "etc/compose/offline.yaml", tmp_path).offline


@pytest.mark.parametrize("path", FILES, ids=named)
def test_every_variable_is_known_and_passed_on(path: Path) -> None:
    given = set(service(path)["environment"])
    assert given - NOT_BERTHS <= NAMES | FILE_NAMES
    assert given & OURS == set()
    for var in VARIABLES:
        assert var.name in given | OURS or var.file_name in given, f"{path.name} does not pass {var.name} on"
    assert set(re.findall(r"\bBERTH_[A-Z_]*[A-Z]\b", path.read_text())) <= NAMES | FILE_NAMES


@pytest.mark.parametrize("path", FILES, ids=named)
def test_shell_variable_reaches_berth(path: Path, tmp_path: Path) -> None:
    found = settings(path, tmp_path, BERTH_LOG_LEVEL="debug", BERTH_RESTART_LIMIT="9", BERTH_START_TIMEOUT="1h")
    assert (found.log_level, found.restart_limit, found.start_timeout_s) == ("debug", 9, 3600)


@pytest.mark.parametrize("path", [COMPOSE, ROOT / "etc/compose/no-gpu.yaml"], ids=named)
def test_models_can_be_replaced(path: Path, tmp_path: Path) -> None:
    found = settings(path, tmp_path, BERTH_MODELS="a=b/c@vllm", BERTH_API_KEYS="key-of-alice", HF_TOKEN="hf_x")
    assert (found.models[0].name, found.api_keys, found.hf_token) == ("a", api_keys("key-of-alice"), "hf_x")


@pytest.mark.parametrize("path", EXAMPLES, ids=named)
def test_example_differs_from_compose_yaml_only_in_its_topic(path: Path) -> None:
    own = {"environment", "build", "secrets", "extra_hosts"} | OF_A_FILE.get(path.name, set())
    theirs, ours = service(COMPOSE), service(path)
    assert {key: ours[key] for key in ours if key not in own} == {key: theirs[key] for key in theirs if key not in own}
    assert "build" not in ours, "whoever copies one file has no Dockerfile"
    whole = yaml.safe_load(path.read_text())
    assert (whole["name"], whole["volumes"]) == ("berth", {"data": {"name": "berth"}})


@pytest.mark.parametrize("path", FILES, ids=named)
def test_begins_with_purpose_and_command(path: Path) -> None:
    comment = [line for line in path.read_text().split("\nname:")[0].splitlines() if line.strip("# ")]
    command = "docker compose" if path == COMPOSE else f"docker compose -f {path.name}"
    assert all(line.startswith("#") for line in comment)
    assert any(re.match(rf"#   {re.escape(command)} up -d --wait\b", line) for line in comment)
    assert max(len(line) for line in path.read_text().splitlines()) <= 120


def test_health_check_queries_the_router_without_key_and_python() -> None:
    check = service(COMPOSE)["healthcheck"]
    *command, url = check["test"]
    assert command[:2] == ["CMD", "curl"]
    assert command[command.index("--noproxy") + 1] == "*", "a proxy for the downloads would be asked"
    assert url == f"http${{BERTH_TLS_CERT:+s}}://127.0.0.1:{DEFAULTS.port}/health"
    assert DOCUMENTS["/health"][1] is False
    for name in ("interval", "timeout", "start-period", "retries"):
        assert f"--{name}={check[name.replace('-', '_')]}" in DOCKERFILE, "not as often as the image's own"


def test_build_arguments_are_the_dockerfiles() -> None:
    known = set(re.findall(r"^ARG (\w+)", DOCKERFILE, re.MULTILINE))
    assert {"ENGINES"} <= set(service(COMPOSE)["build"]["args"]) <= known


def test_stop_grace_period_exceeds_berths_stop_time() -> None:
    grace_s = duration(service(COMPOSE)["stop_grace_period"])
    assert grace_s >= supervisord_conf.SHUTDOWN_S + 5
    assert DEFAULTS.drain_timeout_s < supervisord_conf.SHUTDOWN_S


def test_limits_are_those_that_berth_checks() -> None:
    found = service(COMPOSE)
    assert found["ulimits"] == {"memlock": -1, "nofile": preflight.RECOMMENDED_FILES}
    assert size(found["shm_size"]) >= 16 * preflight.RECOMMENDED_SHM_PER_GPU_BYTES
    assert size(tmpfs(COMPOSE)[DEFAULTS.run_dir]["size"].upper() + "iB") >= preflight.LEAST_RUN_BYTES


def test_writes_only_where_it_must() -> None:
    found = service(COMPOSE)
    assert found["read_only"] is True
    assert found["volumes"] == [f"data:{DEFAULTS.data_dir}"]
    assert set(tmpfs(COMPOSE)) == {TEMPORARY, DEFAULTS.run_dir}
    assert all(options["mode"] == "1777" for options in tmpfs(COMPOSE).values()), "any user may be chosen"
    assert "exec" in tmpfs(COMPOSE)[TEMPORARY], "engines load what they compile there"


@pytest.mark.parametrize("path", FILES, ids=named)
def test_engines_can_write_their_files(path: Path, tmp_path: Path) -> None:
    writable = (DEFAULTS.data_dir, *tmpfs(path))
    for replica in planned(path, tmp_path).replicas:
        if replica.launch is None:
            continue
        places = [value for name, value in replica.launch.env.items() if name != "PATH" and value.startswith("/")]
        for place in [*places, *replica.launch.files, *replica.launch.links]:
            assert place.startswith(tuple(f"{folder}/" for folder in writable)), (replica.name, place)


def test_drops_unneeded_capabilities() -> None:
    found = service(COMPOSE)
    assert found["cap_drop"] == ["ALL"]
    assert found["security_opt"] == ["no-new-privileges:true"]
    assert not found.keys() & {"privileged", "cap_add", "network_mode", "pid", "ipc", "user"}


def test_listens_on_loopback_by_default() -> None:
    assert service(COMPOSE)["ports"] == [f"${{BERTH_HOST:-127.0.0.1}}:${{BERTH_PORT:-8000}}:{DEFAULTS.port}"]


def test_restarts_after_reboot_and_rotates_logs() -> None:
    found = service(COMPOSE)
    assert found["restart"] == "unless-stopped"
    assert (
        size(found["logging"]["options"]["max-size"].upper() + "B") * int(found["logging"]["options"]["max-file"])
        < 10**9
    )


@pytest.mark.parametrize("path", FILES, ids=named)
def test_docker_compose_accepts_it(path: Path) -> None:
    docker = shutil.which("docker")
    if docker is None:
        pytest.skip("there is no docker on PATH")
    if subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("this docker has no compose")
    command = [docker, "compose", "--file", str(path), "--profile", "*", "config", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")

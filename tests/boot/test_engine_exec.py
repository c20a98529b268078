"""`berth exec` in real processes: the engine is a small Python program that tells what it sees."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from berth import processes
from berth.boot import engine_exec
from berth.boot.checkpoints import cache
from berth.boot.checkpoints.files import HubModel
from berth.engines.environment import HUB_TOKENS
from berth.errors import MachineError, PortInUseError
from berth.plan import EngineName, Keys, Launch, Plan, Ranks
from tests.fakes.hub import FakeHub, serving
from tests.fakes.hub_cache import COMMIT, store
from tests.fakes.plans import make_plan, make_replica

TELL = """
import json, os, sys
ids = {"pid": os.getpid(), "session": os.getsid(0), "group": os.getpgrp(), "parent_group": os.getpgid(os.getppid())}
print(json.dumps({"argv": sys.argv[1:], "env": dict(os.environ), **ids}))
"""
EXEC = [
    sys.executable,
    "-c",
    "import sys; from berth.boot.engine_exec import exec_replica; exec_replica(*sys.argv[1:])",
]


@pytest.fixture
def port() -> int:
    """A free port."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return int(server.getsockname()[1])


def written(run_dir: Path, launch: Launch, port: int) -> Plan:
    """A plan on disk with one replica, chat-sim."""
    plan = make_plan(str(run_dir), make_replica("chat-sim", launch=launch, port=port))
    run_dir.mkdir()
    plan.paths.plan.write_bytes(plan.to_json())
    plan.paths.keys.write_bytes(Keys().to_json())
    return plan


def tell(*arguments: str, **fields: Any) -> Launch:
    return Launch(argv=(sys.executable, "-c", TELL, *arguments), **fields)


def execute(run_dir: Path, name: str = "chat-sim", environ: dict[str, str] | None = None) -> Any:
    """What the engine printed. In a group of its own, as supervisord starts it."""
    output = subprocess.run(
        [*EXEC, str(run_dir), name],
        env=os.environ | (environ or {}),
        stdout=subprocess.PIPE,
        process_group=0,
        check=True,
    ).stdout
    return json.loads(output)


def test_engine_has_its_own_session_and_a_record(tmp_path: Path, port: int) -> None:
    plan = written(tmp_path / "run", tell(), port)
    seen = execute(tmp_path / "run")
    assert seen["pid"] == seen["session"] == seen["group"]
    assert seen["parent_group"] != seen["group"]
    record = processes.read_record(processes.replica_record(plan.paths, "chat-sim"))
    assert record is not None
    assert record.pid == seen["pid"]
    assert record.start_ticks > 0


def test_restores_sigpipe_for_the_engine(tmp_path: Path, port: int) -> None:
    written(tmp_path / "run", Launch(argv=("sed", "-n", "s/^SigIgn://p", "/proc/self/status")), port)
    ignored = subprocess.run([*EXEC, str(tmp_path / "run"), "chat-sim"], stdout=subprocess.PIPE, check=True).stdout
    assert int(ignored, 16) & 1 << (signal.SIGPIPE - 1) == 0


def test_passes_arguments_unchanged(tmp_path: Path, port: int) -> None:
    arguments = ["--json={\"a\": 'b'}", "100%", "a ;b", "line\nbreak", "模型", ""]
    written(tmp_path / "run", tell(*arguments), port)
    assert execute(tmp_path / "run")["argv"] == arguments


def test_environment_hides_all_of_berth_but_the_marker(tmp_path: Path, port: int) -> None:
    written(tmp_path / "run", tell(env={"HF_HOME": "/x", "PATH": "/usr/bin"}, unset=("VLLM_API_KEY",)), port)
    given = {"BERTH_API_KEYS": "secret", "SUPERVISOR_ENABLED": "1", "VLLM_API_KEY": "x", "OPENAI_API_KEY": "o"}
    tokens = dict.fromkeys(HUB_TOKENS, "hf_secret")
    env = execute(tmp_path / "run", environ=given | tokens)["env"]
    assert "hf_secret" not in env.values()
    assert {name for name in env if name.startswith(("BERTH_", "SUPERVISOR_"))} == {"BERTH_REPLICA"}
    assert env["BERTH_REPLICA"] == f"{tmp_path / 'run'}:chat-sim"
    assert "VLLM_API_KEY" not in env
    assert (env["OPENAI_API_KEY"], env["HF_HOME"], env["PATH"]) == ("o", "/x", "/usr/bin")


@pytest.mark.parametrize("takes", [True, False])
def test_only_an_engine_with_spans_of_its_own_gets_those_of_the_collector(
    tmp_path: Path, port: int, *, takes: bool
) -> None:
    launch = tell(env={"OTEL_SERVICE_NAME": "chat-vllm"}, takes_otel=takes)
    plan = written(tmp_path / "run", launch, port)
    otel = {
        "OTEL_EXPORTER_OTLP_HEADERS": "x-key=secret",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c",
        "OTEL_SERVICE_NAME": "berth",
        "OTEL_TRACES_SAMPLER": "always_on",
    }
    own = {"OTEL_TRACES_EXPORTER": "console"}
    plan.paths.keys.write_bytes(Keys(otel=otel, engine_env={"chat-sim": own}).to_json())
    env = execute(tmp_path / "run", environ=otel)["env"]
    expected = {
        "OTEL_SERVICE_NAME": "chat-vllm",
        **own,
        **({"OTEL_EXPORTER_OTLP_HEADERS": "x-key=secret"} if takes else {}),
    }
    assert {name: value for name, value in env.items() if name.startswith("OTEL_")} == expected


def test_user_variables_win_and_the_key_is_passed(tmp_path: Path, port: int) -> None:
    file = tmp_path / "run/chat.yaml"
    launch = tell(env={"A": "ours", "HF_HUB_OFFLINE": "1"}, key_variable="KEY", key_files={str(file): "key: {key}\n"})
    plan = written(tmp_path / "run", launch, port)
    own = {"A": "theirs", "HF_TOKEN": "hf_own", "KEY_2": "x"}
    keys = Keys(
        upstream_keys={"chat-sim": "abc", "other": "not this"}, engine_env={"chat-sim": own, "other": {"B": "1"}}
    )
    plan.paths.keys.write_bytes(keys.to_json())
    env = execute(tmp_path / "run")["env"]
    assert (env["A"], env["HF_TOKEN"], env["HF_HUB_OFFLINE"], env["KEY"]) == ("theirs", "hf_own", "1", "abc")
    assert "B" not in env
    assert file.read_text() == "key: abc\n"
    assert file.stat().st_mode & 0o777 == 0o600


def test_raises_the_oom_score(tmp_path: Path, port: int) -> None:
    written(tmp_path / "run", Launch(argv=("cat", "/proc/self/oom_score_adj")), port)
    score = subprocess.run([*EXEC, str(tmp_path / "run"), "chat-sim"], stdout=subprocess.PIPE, check=True).stdout
    assert int(score) >= engine_exec.OOM_SCORE
    first = 'echo 900 > /proc/self/oom_score_adj; exec "$@"'
    argv = ["sh", "-c", first, "sh", *EXEC, str(tmp_path / "run"), "chat-sim"]
    assert int(subprocess.run(argv, stdout=subprocess.PIPE, check=True).stdout) == 900


TOKEN = "hf_right"
FILES = {"config.json": b'{"model_type": "qwen3"}', "tokenizer.json": b"{}", "model.safetensors": b"x" * 3_000_000}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    with serving(FakeHub(model="org/chat", files=dict(FILES), token=TOKEN)) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "2")
        yield server


def written_for_hub(run_dir: Path, port: int, token: str = TOKEN, *, source: str = "org/chat") -> Plan:
    """A plan whose engine is vLLM, as far as anybody can see."""
    replica = replace(make_replica("chat-sim", launch=tell(), port=port), engine=EngineName.VLLM, start_timeout_s=3)
    plan = make_plan(str(run_dir), replica)
    plan = replace(plan, models=(replace(plan.models[0], source=source),))
    run_dir.mkdir()
    plan.paths.plan.write_bytes(plan.to_json())
    plan.paths.keys.write_bytes(Keys(hub_token=token).to_json())
    return plan


@pytest.mark.usefixtures("hub")
def test_downloads_the_model_before_the_engine_starts(tmp_path: Path, port: int) -> None:
    plan = written_for_hub(tmp_path / "run", port)
    output = subprocess.run(
        [*EXEC, str(tmp_path / "run"), "chat-sim"], capture_output=True, process_group=0, check=True, text=True
    )
    assert json.loads(output.stdout)["env"].get("HF_TOKEN") is None
    assert "Downloading org/chat: 100%|##########| 3.00M/3.00M [" in output.stderr
    assert "hf_right" not in output.stderr + output.stdout
    assert cache.cached_snapshot(cache.hub_cache(plan.paths.data_dir), HubModel(source="org/chat")).complete
    record = processes.read_record(processes.replica_record(plan.paths, "chat-sim"))
    assert record is not None


def test_cached_model_needs_no_hub(tmp_path: Path, port: int, hub: FakeHub) -> None:
    plan = written_for_hub(tmp_path / "run", port)
    store(Path(plan.paths.data_dir))
    listing = cache.repository(cache.hub_cache(plan.paths.data_dir), "org/chat") / "trees" / f"{COMMIT}.json"
    listing.parent.mkdir()
    listing.write_text("{}")
    execute(tmp_path / "run")
    assert hub.paths == []
    assert not listing.exists()


def test_local_model_does_not_import_the_hub_library(tmp_path: Path, port: int) -> None:
    written_for_hub(tmp_path / "run", port, source="/data/chat")
    imports = [sys.executable, "-X", "importtime", *EXEC[1:], str(tmp_path / "run"), "chat-sim"]
    done = subprocess.run(imports, capture_output=True, process_group=0, check=True, text=True)
    assert "berth.boot.engine_exec" in done.stderr
    assert "huggingface_hub" not in done.stderr


@pytest.mark.parametrize(
    ("token", "code", "words"),
    [("hf_wrong", 78, "is a gated model"), (TOKEN, 73, "cannot be written")],
)
@pytest.mark.usefixtures("hub")
def test_exit_codes_of_permanent_download_failures(
    tmp_path: Path, port: int, token: str, code: int, words: str
) -> None:
    plan = written_for_hub(tmp_path / "run", port, token)
    if code == 73:
        Path(plan.paths.data_dir).write_text("a file")
    status, message = failing(tmp_path / "run")
    assert status == code
    assert words in message.splitlines()[-1]


def test_downloads_extra_repositories_and_the_revision(tmp_path: Path, port: int, hub: FakeHub) -> None:
    plan = written_for_hub(tmp_path / "run", port)
    hub.others = {"org/draft": FILES}
    route = replace(plan.models[0], revision="v2", extra_sources=("org/draft",))
    plan.paths.plan.write_bytes(replace(plan, models=(route,)).to_json())
    execute(tmp_path / "run")
    where = cache.hub_cache(plan.paths.data_dir)
    assert cache.cached_snapshot(where, HubModel(source="org/chat", revision="v2")).complete
    assert cache.cached_snapshot(where, HubModel(source="org/draft")).complete


def test_offline_names_missing_files_without_a_request(tmp_path: Path, port: int, hub: FakeHub) -> None:
    plan = written_for_hub(tmp_path / "run", port)
    plan.paths.plan.write_bytes(replace(plan, offline=True).to_json())
    status, message = failing(tmp_path / "run")
    assert (status, hub.paths) == (78, [])
    assert "'org/chat': is not in " in message.splitlines()[-1]


def test_unreachable_hub_is_a_temporary_failure(tmp_path: Path, port: int, hub: FakeHub) -> None:
    written_for_hub(tmp_path / "run", port)
    hub.refusal = (503, "")
    status, message = failing(tmp_path / "run")
    assert status == 69
    assert "org/chat: the hub cannot be reached (HTTP 503); trying again in 1 s" in message
    assert "no data came for" in message.splitlines()[-1]


def test_writes_files_and_links_before_the_engine_starts(tmp_path: Path, port: int) -> None:
    file, link = tmp_path / "a/options.yaml", tmp_path / "b/c/name"
    link.parent.mkdir(parents=True)
    link.symlink_to("/somewhere/else")
    written(tmp_path / "run", tell(files={str(file): "x: é\n"}, links={str(link): "/models/m"}), port)
    execute(tmp_path / "run")
    assert file.read_text(encoding="utf-8") == "x: é\n"
    assert link.readlink() == Path("/models/m")


def test_session_leader_keeps_its_session(tmp_path: Path, port: int) -> None:
    written(tmp_path / "run", tell(), port)
    command = [*EXEC, str(tmp_path / "run"), "chat-sim"]
    seen = json.loads(subprocess.run(command, stdout=subprocess.PIPE, start_new_session=True, check=True).stdout)
    assert seen["pid"] == seen["session"]


def failing(run_dir: Path) -> tuple[int, str]:
    """Exit code and message of a `berth exec` that becomes no engine."""
    code = "import sys; from berth.cli.main import main; main(['exec', '--run-dir', sys.argv[1], 'chat-sim'])"
    done = subprocess.run(
        [sys.executable, "-c", code, run_dir], stderr=subprocess.PIPE, text=True, process_group=0, check=False
    )
    return done.returncode, done.stderr


def test_exit_code_of_a_port_in_use(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        number = server.getsockname()[1]
        written(tmp_path / "run", tell(), number)
        code, message = failing(tmp_path / "run")
    assert code == 69
    assert f"127.0.0.1:{number}: Address already in use" in message


def at_a_socket(run_dir: Path, launch: Launch) -> Path:
    """A plan on disk, whose replica listens there."""
    path = run_dir / "chat-sim.sock"
    replica = replace(make_replica("chat-sim", launch=launch), url=f"unix:{path}")
    plan = make_plan(str(run_dir), replica)
    run_dir.mkdir()
    plan.paths.plan.write_bytes(plan.to_json())
    plan.paths.keys.write_bytes(Keys().to_json())
    return path


LISTEN = """
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(sys.argv[1])
    print(json.dumps(os.stat(sys.argv[1]).st_mode & 0o777))
"""


def test_replaces_a_stale_socket_with_a_private_one(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    launch = Launch(argv=(sys.executable, "-c", LISTEN, str(run_dir / "chat-sim.sock")))
    path = at_a_socket(run_dir, launch)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    before = os.umask(0)
    try:
        mode = execute(run_dir)
    finally:
        os.umask(before)
    assert mode & 0o022 == 0  # who may not write to it cannot connect


def test_exit_code_of_a_socket_in_use(tmp_path: Path) -> None:
    path = at_a_socket(tmp_path / "run", tell())
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(str(path))
        taken.listen()
        code, message = failing(tmp_path / "run")
    assert code == 69
    assert f"chat-sim: another process listens at {str(path)!r}" in message


@pytest.mark.parametrize("mode", [None, 0o600])
def test_exit_code_of_a_program_that_cannot_be_executed(tmp_path: Path, port: int, mode: int | None) -> None:
    program = tmp_path / "vllm"
    if mode:
        program.touch(mode)
    written(tmp_path / "run", Launch(argv=(str(program),)), port)
    code, message = failing(tmp_path / "run")
    assert code == 127
    assert message.startswith(f"berth exec: {str(program)!r} cannot be executed: ")


def test_exit_code_of_a_file_that_cannot_be_written(tmp_path: Path, port: int) -> None:
    (tmp_path / "file").touch()
    written(tmp_path / "run", tell(files={str(tmp_path / "file/options.yaml"): ""}), port)
    code, message = failing(tmp_path / "run")
    assert code == 73
    assert "cannot be written" in message


def test_engine_gets_sigterm_when_supervisord_dies(tmp_path: Path, port: int) -> None:
    engine = (
        "import signal; signal.pthread_sigmask(0, [15]); print('up', flush=True); signal.sigwait([15]); print('seen')"
    )
    written(tmp_path / "run", Launch(argv=(sys.executable, "-c", engine)), port)
    parent = (
        f"import subprocess, signal; subprocess.Popen({[*EXEC, str(tmp_path / 'run'), 'chat-sim']}); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        assert supervisor.stdout.readline() == "up\n"
        supervisor.send_signal(signal.SIGKILL)
        assert supervisor.stdout.readline() == "seen\n"


def test_rejects_an_unknown_replica(tmp_path: Path) -> None:
    plan = make_plan(str(tmp_path), make_replica("chat-remote", launch=None), make_replica(launch=tell()))
    (tmp_path / "plan.json").write_bytes(plan.to_json())
    (tmp_path / "keys.json").write_bytes(Keys().to_json())
    with pytest.raises(MachineError, match=r"unknown replica 'chat-remote'; known: chat-sim"):
        engine_exec.exec_replica(str(tmp_path), "chat-remote")


def test_engines_bypass_the_proxy_for_themselves() -> None:
    launch = Launch(argv=("true",))

    given = engine_exec.environment({"HTTP_PROXY": "http://proxy", "no_proxy": "10.0.0.1"}, launch, "marker")

    assert given["NO_PROXY"] == given["no_proxy"] == "10.0.0.1,127.0.0.1,localhost"
    assert engine_exec.environment({}, launch, "marker")["NO_PROXY"] == "127.0.0.1,localhost"


def test_address_must_be_free(port: int) -> None:
    replica = make_replica("chat-sim", launch=tell(), port=port)

    engine_exec.require_free_address(replica)
    with closing(socket.create_server(("127.0.0.1", port))), pytest.raises(PortInUseError, match=f"{port}"):
        engine_exec.require_free_address(replica)


def test_key_files_contain_the_key_and_are_private(tmp_path: Path) -> None:
    plain, secret = tmp_path / "a" / "plain", tmp_path / "b" / "secret"

    engine_exec.write_files(tell(files={str(plain): "{key}"}, key_files={str(secret): "key: {key}"}), "abc")

    assert (plain.read_text(), secret.read_text()) == ("{key}", "key: abc")
    assert (plain.stat().st_mode & 0o777, secret.stat().st_mode & 0o777) == (0o644, 0o600)


def test_a_later_start_writes_only_what_has_changed(tmp_path: Path) -> None:
    """The disk may be full by then."""
    plain, secret, link = tmp_path / "plain", tmp_path / "secret", tmp_path / "link"
    launch = tell(files={str(plain): "text"}, key_files={str(secret): "{key}"}, links={str(link): str(plain)})

    def inodes() -> list[int]:
        return [path.lstat().st_ino for path in (plain, secret, link)]

    engine_exec.write_files(launch, "abc")
    before = inodes()
    engine_exec.write_files(launch, "abc")
    assert inodes() == before
    engine_exec.write_files(launch, "new")
    secret.chmod(0o644)
    engine_exec.write_files(launch, "new")
    assert (secret.read_text(), secret.stat().st_mode & 0o777) == ("new", 0o600)
    assert (inodes()[0], inodes()[2]) == (before[0], before[2])


def test_attendant_belongs_to_its_replica(tmp_path: Path, port: int) -> None:
    """Its processes are found by the replica's marker, and it has the replica's secrets, but no record of its own."""
    plan = written(tmp_path / "run", tell(), port)
    replica = replace(plan.replicas[0], attendant=tell("--head"))
    plan.paths.plan.write_bytes(replace(plan, replicas=(replica,)).to_json())
    plan.paths.keys.write_bytes(Keys(engine_env={"chat-sim": {"RAY_AUTH_TOKEN": "t"}}).to_json())
    seen = execute(tmp_path / "run", "chat-sim.ray")
    assert seen["argv"] == ["--head"]
    assert seen["env"]["RAY_AUTH_TOKEN"] == "t"
    assert seen["env"][processes.REPLICA_MARKER] == f"{tmp_path / 'run'}:chat-sim"
    assert seen["pid"] == seen["session"]
    assert processes.read_record(processes.replica_record(plan.paths, "chat-sim")) is None


def test_what_joins_ray_waits_for_its_head(tmp_path: Path, port: int) -> None:
    ranks = Ranks(nodes=2, rank=1, head="127.0.0.1", own="127.0.0.2", port=port, interface="lo", url="u", ray=True)
    plan = written(tmp_path / "run", tell(), port)
    replica = replace(plan.replicas[0], ranks=ranks, url="unix:" + str(tmp_path / "s"))
    with pytest.raises(MachineError, match=r"does not answer at 127\.0\.0\.1:\d+ within 0 s\. Open this port"):
        engine_exec.require_ray(ranks, timeout_s=0)
    plan.paths.plan.write_bytes(replace(plan, replicas=(replica,)).to_json())
    with closing(socket.create_server(("127.0.0.1", port))):
        assert execute(tmp_path / "run")["argv"] == []

"""Agents for the command line: Claude Code over the Anthropic API, and Codex over the Responses API.

Neither can reach anything but Berth here: all else goes to a proxy that does not exist.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.clients.scene import KEY, VARIABLE, Scene, cut

NODE = Path(__file__).resolve().parents[2] / ".clients/node"
COMMANDS = NODE / "node_modules/.bin"
NOWHERE = "http://127.0.0.1:1"

if VARIABLE not in os.environ:
    pytest.skip("these agents are tried by: make clients-test", allow_module_level=True)


def run(folder: Path, command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    environ = {
        "PATH": f"{NODE / 'bin'}:{os.environ['PATH']}",
        "HOME": str(folder),
        "HTTPS_PROXY": NOWHERE,
        "HTTP_PROXY": NOWHERE,
        "NO_PROXY": "127.0.0.1",
        **variables,
    }
    return subprocess.run(
        command,
        cwd=folder,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def claude(folder: Path, scene: Scene, model: str, tools: str, key: str = KEY) -> dict[str, Any]:
    """What `claude -p` says at its end."""
    command = [str(COMMANDS / "claude"), "-p", "Hello", "--model", model, "--tools", tools, "--output-format", "json"]
    variables = {
        "ANTHROPIC_BASE_URL": scene.url,
        "ANTHROPIC_API_KEY": key,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_MAX_RETRIES": "0",
        "DISABLE_AUTOUPDATER": "1",
    }
    done = run(folder, command, **variables)
    last = (done.stdout.splitlines() or [""])[-1]
    assert last.startswith("{"), (done.stdout, done.stderr)
    told: dict[str, Any] = json.loads(last)
    return told


def test_claude_code_answers(tmp_path: Path, scene: Scene, simulated: str) -> None:
    told = claude(tmp_path, scene, simulated, "")
    assert (told["is_error"], told["result"]) == (False, scene.texts[simulated])
    assert told["usage"]["input_tokens"] > 1000
    assert told["usage"]["output_tokens"] > 50


def test_claude_code_goes_on_after_a_tools_result(tmp_path: Path, scene: Scene, simulated: str) -> None:
    told = claude(tmp_path, scene, simulated, "Read")
    assert (told["is_error"], told["result"], told["num_turns"]) == (False, scene.texts[simulated], 2)


def test_claude_code_tells_errors(tmp_path: Path, scene: Scene) -> None:
    wrong_key = claude(tmp_path, scene, "vllm", "", key="wrong")
    assert (wrong_key["is_error"], wrong_key["api_error_status"]) == (True, 401)
    unknown = claude(tmp_path, scene, "no-such-model", "")
    assert (unknown["is_error"], unknown["api_error_status"]) == (True, 404)


def test_claude_code_does_not_take_a_cut_answer_for_a_whole_one(tmp_path: Path, scene: Scene, simulated: str) -> None:
    assert claude(tmp_path, scene, cut(simulated), "")["is_error"]


def codex(folder: Path, scene: Scene, model: str, key: str = KEY) -> list[dict[str, Any]]:
    """What `codex exec` tells while it works."""
    (folder / ".codex").mkdir()
    (folder / ".codex/config.toml").write_text(
        f"""model = "{model}"
model_provider = "berth"
[model_providers.berth]
name = "Berth"
base_url = "{scene.url}/v1"
env_key = "BERTH_KEY"
wire_api = "responses"
request_max_retries = 0
stream_max_retries = 0
"""
    )
    command = [str(COMMANDS / "codex"), "exec", "--skip-git-repo-check", "--sandbox", "read-only", "--json", "Hello"]
    done = run(folder, command, BERTH_KEY=key)
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert told, done.stderr
    return told


def test_codex_runs_a_command_and_answers(tmp_path: Path, scene: Scene, simulated: str) -> None:
    told = codex(tmp_path, scene, simulated)
    items = {event["item"]["type"]: event["item"] for event in told if event["type"] == "item.completed"}
    assert "command_execution" in items, told
    assert items["agent_message"]["text"] == scene.texts[simulated]
    assert told[-1]["type"] == "turn.completed"
    assert told[-1]["usage"]["output_tokens"] > 50


@pytest.mark.parametrize(("model", "key"), [("no-such-model", KEY), ("vllm", "wrong"), (cut("vllm"), KEY)])
def test_codex_tells_errors(tmp_path: Path, scene: Scene, model: str, key: str) -> None:
    told = codex(tmp_path, scene, model, key)
    assert told[-1]["type"] == "turn.failed", told

"""`berth status`."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from berth.control.status import status
from berth.errors import ControlError
from berth.ipc import journal
from berth.plan import Plan, RunPaths
from berth.state import GpuState, Progress, RankState, ReplicaState, ReplicaStatus, State
from tests.fakes.plans import GPU_PLAN as PLAN

READY = ReplicaState(name="chat-vllm", status=ReplicaStatus.READY, since=100.0, restarts=2)
FAILED = ReplicaState(
    name="chat-vllm",
    status=ReplicaStatus.FAILED,
    since=100.0,
    reason="exited 5 times in 15 min",
    last_lines=("ValueError: no such model",),
)
SPREAD = replace(
    READY,
    ranks=(
        RankState(rank=0, box="10.0.0.1", status="ready", generation=7),
        RankState(rank=1, box="10.0.0.2", status="silent", reason="no message for 9 s"),
        RankState(rank=2, box="10.0.0.3", status=""),
    ),
)
LOADING = ReplicaState(
    name="chat-vllm", status=ReplicaStatus.STARTING, since=160.0, progress=Progress(phase="load", percent=45)
)


def write(run_dir: Path, *replicas: ReplicaState, published_at: float = 161.0, plan: Plan = PLAN) -> None:
    paths = RunPaths(run_dir=str(run_dir), data_dir="")
    paths.plan.write_bytes(plan.to_json())
    gpu = GpuState(index=0, memory_used_bytes=2 * 2**30, memory_total_bytes=80 * 2**30)
    state = State(sequence=1, published_at=published_at, control_pid=1, replicas=replicas, gpus=(gpu,))
    paths.state.write_bytes(state.to_json())


DOWNLOADING = replace(
    LOADING,
    progress=Progress(phase="download", percent=50, done_bytes=4 << 30, total_bytes=8 << 30),
)


@pytest.mark.parametrize(
    ("replica", "code", "lines"),
    [
        (
            replace(LOADING, expected_s=92.0, expected_phases={"load": 40.0, "graphs": 52.0}),
            1,
            ["  . chat-vllm  vllm  starting  for 2 s  (load 45 %)  about 74 s left"],
        ),
        (
            DOWNLOADING,
            1,
            ["  . chat-vllm  vllm  starting  for 2 s  (download 50 %, 4.0 of 8.0 GiB)  about 2 s left of the download"],
        ),
        (
            replace(READY, flaps=4, restarts=0),
            0,
            ["  + chat-vllm  vllm  ready  for 1 min 2 s  flapping: failed 4 times within an hour"],
        ),
        (READY, 0, ["  + chat-vllm  vllm  ready  for 1 min 2 s  restarts: 2"]),
        (
            SPREAD,
            0,
            [
                "  + chat-vllm  vllm  ready  for 1 min 2 s  restarts: 2",
                "      rank 0 on 10.0.0.1  ready  generation 7",
                "      rank 1 on 10.0.0.2  silent  no message for 9 s",
                "      rank 2 on 10.0.0.3  not reported",
            ],
        ),
        (LOADING, 1, ["  . chat-vllm  vllm  starting  for 2 s  (load 45 %)"]),
        (
            FAILED,
            1,
            [
                "  x chat-vllm  vllm  failed  for 1 min 2 s",
                "      exited 5 times in 15 min",
                "      > ValueError: no such model",
            ],
        ),
    ],
)
def test_lines_of_a_replica(tmp_path: Path, replica: ReplicaState, code: int, lines: list[str]) -> None:
    write(tmp_path, replica)
    text, exit_code = status(str(tmp_path), as_json=False, now=162.0)
    head = ["http://localhost:8000  open: no BERTH_API_KEYS", "", "org/chat é"]
    if replica is FAILED:
        down = "no engine serves org/chat é: chat-vllm is failed, exited 5 times in 15 min (berth load org/chat é)"
        head.insert(1, f"! {down}")
    assert text.splitlines() == [*head, *lines, "GPU 0: 2.0 of 80.0 GiB used"]
    assert exit_code == code


def test_warns_about_missing_heartbeats(tmp_path: Path) -> None:
    write(tmp_path, replace(READY, since=0), published_at=7_000)
    text, _ = status(str(tmp_path), as_json=False, now=7_260.0)
    assert "! no heartbeat from control for 260 s" in text
    assert "for 2 h 1 min" in text


def test_warns_about_a_full_run_directory(tmp_path: Path) -> None:
    write(tmp_path, READY)
    assert "full" not in status(str(tmp_path), as_json=False, now=162.0)[0]
    state = State.from_json(Path(tmp_path, "state.json").read_bytes())
    Path(tmp_path, "state.json").write_bytes(replace(state, run_dir_free_bytes=0).to_json())
    assert "is full; engine logs and stored responses are lost" in status(str(tmp_path), as_json=False, now=162.0)[0]


def test_shows_aliases_and_a_replica_unknown_to_control(tmp_path: Path) -> None:
    write(tmp_path, plan=replace(PLAN, open_access=False, models=(replace(PLAN.models[0], aliases=("gpt", "x")),)))
    text, code = status(str(tmp_path), as_json=False, now=162.0)
    assert text.splitlines()[:4] == [
        "http://localhost:8000",
        "",
        "org/chat é (also gpt, x)",
        "  ? chat-vllm  not known to control yet",
    ]
    assert code == 1


def test_json_holds_models_and_state(tmp_path: Path) -> None:
    write(tmp_path, READY)
    text, code = status(str(tmp_path), as_json=True)
    assert json.loads(text)["state"]["replicas"][0]["status"] == "ready"
    assert json.loads(text)["models"][0]["name"] == "org/chat é"
    assert code == 0


def test_missing_or_damaged_files_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="set BERTH_RUN_DIR to where it runs"):
        status(str(tmp_path), as_json=False)
    write(tmp_path, READY)
    (tmp_path / "state.json").write_bytes(b'{"version"')
    with pytest.raises(ControlError, match="cannot be read"):
        status(str(tmp_path), as_json=False)


def test_has_what_the_journal_shows(tmp_path: Path) -> None:
    write(tmp_path, READY)
    data = journal.part_of(RunPaths(run_dir=str(tmp_path), data_dir="").journal, 0)
    for number in range(1, 11):
        times, tokens, codes = (100.0, 0.0, -1.0, 2.0), (0, 0, 0, 0, 0), (502, 1, 0, 1, 0, 0, 0)
        names, texts = (0, 0, 0, journal.NONE, 0), (b"", b"", b"", b"x", b"")
        journal.RECORD.pack_into(
            data,
            number * journal.RECORD.size,
            number,
            *times,
            *tokens,
            *codes,
            *names,
            *texts,
            *journal.NO_ATTEMPT,
            number,
        )
    data.close()

    text, _ = status(str(tmp_path), as_json=False, now=162.0)
    assert "! 10 of 10 requests of org/chat é failed in 5 min (berth logs)" in text.splitlines()
    document = json.loads(status(str(tmp_path), as_json=True, now=162.0)[0])
    assert [notice["kind"] for notice in document["notices"]] == ["errors", "open_access"]
    later, _ = status(str(tmp_path), as_json=False, now=500.0)
    assert "requests" not in later


def test_marks_are_coloured_on_a_terminal(tmp_path: Path) -> None:
    write(tmp_path, READY)
    plain, _ = status(str(tmp_path), as_json=False, now=162.0)
    coloured, _ = status(str(tmp_path), as_json=False, now=162.0, colour=True)
    assert "\033[32m  + \033[0mchat-vllm" in coloured
    assert re.sub("\033\\[[0-9]*m", "", coloured) == plain

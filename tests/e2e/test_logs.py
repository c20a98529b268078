"""What comes out of the container: one stream of whole lines, each with its program's name, whatever happens."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.appliance import ROOT, Appliance, end, sim_models

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

PREFIX = re.compile(r"\d\d:\d\d:\d\d (?:boot|supervisord|control|router|m-sim) \| .")


@pytest.fixture(scope="module")
def shared() -> Iterator[Appliance]:
    with Appliance("m=simulated@sim") as appliance:
        yield appliance


@pytest.fixture
def berth(shared: Appliance) -> Appliance:
    """One for all tests, with what others made it say before."""
    if shared.started().poll() is not None:
        shared.start()
    return shared.wait_ready().wait(lambda: shared.chat("m", max_tokens=1).status_code == 200)


def said(berth: Appliance) -> list[str]:
    """The container's standard output and standard error."""
    output = (berth.folder / "output").read_bytes()
    return output.decode(errors="replace").splitlines()  # the last character may be written half


def say(berth: Appliance, data: bytes) -> None:
    """In the engine's name: on its standard output."""
    pid = berth.find("sim", "--dialect").pid
    with Path(f"/proc/{pid}/fd/1").open("wb", buffering=0) as output:
        while data:
            data = data[output.write(data) :]


def shown(berth: Appliance, last: str) -> list[str]:
    """What the engine said, without name and time, as soon as the last of it is there."""
    berth.wait(lambda: any(last in line for line in said(berth)))
    return [line.partition(" m-sim | ")[2] for line in said(berth) if " m-sim | " in line]


def test_every_log_line_has_its_programs_name(berth: Appliance) -> None:
    restarts = berth.state().replicas[0].restarts
    worker = berth.find("router").children()[-1]
    end(worker)
    end(berth.find("control"))
    end(berth.find("sim", "--dialect"))
    berth.wait(lambda: berth.chat("m").status_code == 200 and berth.state().replicas[0].restarts == restarts + 1)
    berth.stop()
    lines = said(berth)
    assert [line for line in lines if not PREFIX.match(line)] == []
    endings = ("router | stopped", "control | control stopped")
    for words in ("boot | starting", "router | error: Unexpected exit", *endings):
        assert any(words in line for line in lines), words


def test_every_log_line_is_json_with_json_format() -> None:
    with Appliance("m=simulated@sim", BERTH_LOG_FORMAT="json") as berth:
        berth.wait_ready()
        for process in (berth.find("router").children()[-1], berth.find("control"), berth.find("sim", "--dialect")):
            with Path(f"/proc/{process.pid}/fd/2").open("wb", buffering=0) as stderr:
                stderr.write(b'Fatal Python error: {"not": json\n\xff\xfe\n')
            end(process)
        berth.wait(lambda: berth.chat("m").status_code == 200 and berth.state().replicas[0].restarts == 1)
        berth.stop()
        lines = [json.loads(line) for line in said(berth)]
        fatal = {line["program"] for line in lines if line.get("line", "").startswith("Fatal Python error")}
        assert fatal == {"router", "control", "m-sim"}
        assert {"time", "program"} <= set.intersection(*(set(line) for line in lines))


def test_failed_start_logs_json() -> None:
    berth = Appliance("m=simulated@sim", BERTH_LOG_FORMAT="json", BERTH_PROT="1", BERTH_WORKERS="many")
    assert berth.run_to_end() == 78
    problems = [json.loads(line) for line in said(berth)]
    assert {problem["exit_code"] for problem in problems} == {78}
    assert len(problems) == 2
    berth.close()


def test_any_engine_output_becomes_log_lines(berth: Appliance) -> None:
    megabyte = "é" * 500_000
    bars = "".join(f"\rfirst: {n}%|#| {n}/100 [00:01<00:01]\rsecond: {n}%|#| {n}/100 [00:01<" for n in range(101))
    say(
        berth,
        b"BEGIN\r\n" + bars.encode() + b"\n\x00\xff garbage \x1b[31mred\x1b[0m\n" + megabyte.encode() + b"\nEND\n",
    )
    say(berth, b"last words without an end")
    berth.wait(lambda: any(line.endswith("END") for line in said(berth)))
    end(berth.find("sim", "--dialect"))
    lines = shown(berth, "last words without an end")
    assert sum(line.startswith("first: ") for line in lines) == 11
    assert sum(line.startswith("second: ") for line in lines) == 11
    assert "\ufffd garbage red" in lines
    assert "".join(line for line in lines if set(line) == {"é"}) == megabyte
    assert lines.index("BEGIN") < lines.index("END") < lines.index("last words without an end")


def test_log_lines_survive_a_kill_of_control_in_order(berth: Appliance) -> None:
    for number in range(300):
        say(berth, f"line {number}\n".encode())
        if number in {100, 200}:
            pid = berth.state().control_pid
            end(berth.find("control"))
            say(berth, b"while control is away\n")
            berth.wait(lambda pid=pid: berth.state().control_pid != pid)  # type: ignore[misc] # mypy knows no lambda with defaults
    lines = shown(berth, "line 299")
    first = {line: lines.index(line) for line in lines if line.startswith("line ")}
    assert sorted(first, key=first.__getitem__) == [f"line {number}" for number in range(300)]
    assert lines.count("while control is away") >= 2


def test_secrets_are_redacted_everywhere(berth: Appliance) -> None:
    say(berth, b"args: {'api_key': 'opensesame1'} hf_abcdefghijkl Authorization: Bearer opensesame2\n")
    assert shown(berth, "args: ")[-1] == "args: {'api_key': '***'} hf_*** Authorization: Bearer ***"
    logs = subprocess.run(
        [sys.executable, "-m", "berth", "logs"], env=berth.environ, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "hf_***" in logs
    assert "opensesame" not in logs


def test_does_not_repeat_log_lines_of_a_previous_run(berth: Appliance) -> None:
    say(berth, b"only once\n")
    shown(berth, "only once")
    berth.stop()
    berth.start()
    berth.wait_ready()
    assert sum("only once" in line for line in said(berth)) == 1


def test_unread_stdout_blocks_nothing() -> None:
    berth = Appliance(sim_models("m", "vllm --fault log-noise=500"))
    with subprocess.Popen(
        [sys.executable, "-m", "berth", "boot"],
        env=berth.environ, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    ) as berth.process:  # fmt: skip
        berth.wait_ready()
        for _ in range(30):
            say(berth, b"x" * 1023 + b"\n" + b"y" * 64 * 1023 + b"\n")
        before = berth.find("sim", "--dialect").pid
        end(berth.find("control"))
        berth.wait(lambda: berth.state().control_pid != 0 and berth.chat("m").status_code == 200)
        end(berth.find("sim", "--dialect"))
        berth.wait(lambda: berth.find("sim", "--dialect").pid != before and berth.chat("m").status_code == 200)
        berth.process.terminate()
        assert berth.process.stdout is not None
        lines = berth.process.stdout.read().decode().splitlines()
    assert berth.process.returncode == 0
    assert [line for line in lines if not PREFIX.match(line)] == []
    assert any("control | control stopped" in line for line in lines)
    berth.close()

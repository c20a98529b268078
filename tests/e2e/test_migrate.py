"""Another engine takes a model over under load, rolls back, and is what the next start serves. One appliance."""

import asyncio
import itertools
import re
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import psutil
import pytest

from berth.errors import ControlError
from berth.ipc.control_socket import ask
from berth.ipc.migration import Gate, Migration, Phase
from berth.ipc.operations import Operation, OperationState, Reply, Request
from berth.plan import RevisionState
from berth.records.revisions import read
from tests.e2e.appliance import Appliance, end, joined, sim_models

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
VLLM, SGLANG = "m-sim", "m-sim-2"
GATES = ["failures", "empty answers", "slow answers", "formats", "lengths"]
TEXT = {"max_tokens": 12, "temperature": 0}
PATIENT = {"BERTH_QUEUE_TIMEOUT": "120s", "BERTH_QUEUE_SIZE": "4096"}  # what a start takes here is not the test
BRIEF = ("--step-time", "0", "--step-requests", "16", "--keep", "600")


@pytest.fixture(scope="module")
def berth() -> Iterator[Appliance]:
    models = sim_models("m", "vllm --itl 2ms", "sglang --itl 2ms --ttft 5ms")
    with Appliance(models, **PATIENT) as appliance:
        yield appliance.wait_ready()


class Clients:
    """Conversations in turn, as streams and as whole answers, while the block runs."""

    def __init__(self, berth: Appliance, count: int = 4) -> None:
        self._berth = berth
        self._ends = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(count)]
        self.failures: list[str] = []
        self.texts: set[str] = set()
        self.served: defaultdict[str, list[str]] = defaultdict(list)  # by conversation: the replicas, in order

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        self._berth.wait(lambda: len(self.served) >= len(self._threads))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._ends.set()
        joined(self._threads, 120)
        if kind is None:
            assert (self.failures, len(self.texts)) == ([], 1)

    def _run(self, number: int) -> None:
        with self._berth.openai() as client:
            turn = 0
            while not self._ends.is_set():
                turn += 1
                name = f"{number}-{turn % 10}"
                try:
                    self._ask(client, name, stream=bool(turn % 2))
                except Exception as error:  # noqa: BLE001 - whatever it is, the test reports it
                    self.failures.append(f"{name}: {type(error).__name__}: {error}")

    def _ask(self, client: Any, name: str, *, stream: bool) -> None:
        messages = [{"role": "user", "content": "Hello"}]
        ask = client.chat.completions.with_raw_response.create
        raw = ask(model="m", messages=messages, stream=stream, extra_headers={"x-session-id": name}, **TEXT)
        answer = raw.parse()
        if stream:
            text = "".join(part.choices[0].delta.content or "" for part in answer if part.choices)
        else:
            text = answer.choices[0].message.content
        self.texts.add(text)
        if replica := raw.headers.get("x-berth-replica"):  # a stream that was queued began without one
            self.served[name].append(replica)


def run(berth: Appliance, *arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "berth", *arguments]
    done = subprocess.run(command, env=berth.environ, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def newest(berth: Appliance) -> Operation:
    """The last migration."""

    def asked() -> Reply:
        try:
            return asyncio.run(ask(berth.paths.control_socket, Request()))
        except ControlError as error:  # it is being restarted
            raise LookupError(str(error)) from error

    return [one for one in asked().operations if one.migration is not None][-1]


def migration(berth: Appliance) -> Migration:
    found = newest(berth).migration
    assert found is not None
    return found


def gates(berth: Appliance) -> tuple[Gate, ...]:
    """Of the migration that is running, as control has them for all who ask."""
    (found,) = asyncio.run(ask(berth.paths.control_socket, Request())).gates.values()
    return found


def statuses(berth: Appliance) -> tuple[str, ...]:
    found = berth.replicas()
    return tuple(str(found[name]["status"]) for name in (VLLM, SGLANG))


def promoted(berth: Appliance) -> tuple[int, ...]:
    """The order of the engines that the next start takes."""
    one = read(berth.paths.data_dir).promoted("m")
    assert one is not None
    return one.order


def fault(berth: Appliance, replica: str, **faults: int) -> None:
    url = berth.plan().replica(replica).url
    httpx.post(f"{url}/sim/faults", json=faults, trust_env=False).raise_for_status()


def test_another_engine_takes_over_without_a_failed_request(berth: Appliance) -> None:
    assert "both run, which fits" in run(berth, "migrate", "m", "--to", "sglang", "--dry-run")[1]
    with Clients(berth) as clients:
        code, shown = run(berth, "migrate", "m", "--to", "sglang", "--steps", "25,100", *BRIEF, "--wait", "120")
        assert code == 0, shown
        served = {name: len(replicas) for name, replicas in clients.served.items()}
        berth.wait(lambda: all(len(clients.served[name]) > count + 1 for name, count in served.items()))

    assert {replicas[-1] for replicas in clients.served.values()} == {SGLANG}
    moves = {name: sum(a != b for a, b in itertools.pairwise(one)) for name, one in clients.served.items()}
    assert max(moves.values()) == 1, clients.served
    assert (migration(berth).phase, promoted(berth)) == (Phase.SETTLING, (1, 0))
    assert statuses(berth) == ("ready", "ready")  # the one before is kept


def test_a_rollback_takes_no_start(berth: Appliance) -> None:
    starts = berth.replicas()[VLLM]["restarts"]
    with Clients(berth):
        code, shown = run(berth, "rollback", "m", "--wait", "60")
        assert code == 0, shown
        berth.wait(lambda: statuses(berth) == ("ready", "standby"))

    assert newest(berth).reason == "rolled back: aborted by the command line"
    assert (promoted(berth), berth.replicas()[VLLM]["restarts"]) == ((0, 1), starts)
    assert read(berth.paths.data_dir).of("m")[-1].state is RevisionState.REJECTED


def test_a_bad_candidate_is_rolled_back_with_its_numbers(berth: Appliance) -> None:
    """Clients do not see its failures."""
    with Clients(berth):
        assert run(berth, "migrate", "m", "--to", "sglang", "--steps", "50,100", "--step-time", "600")[0] == 0
        berth.wait(lambda: migration(berth).phase is Phase.CANARY)
        berth.wait(lambda: [one.name for one in gates(berth)] == GATES)
        fault(berth, SGLANG, status=500)
        berth.wait(lambda: newest(berth).state is OperationState.FAILED, 120)

    ended = newest(berth)
    assert ended.reason.startswith("rolled back: failures: "), ended
    assert 2 <= migration(berth).own.failures <= 60
    assert (promoted(berth), statuses(berth)) == ((0, 1), ("ready", "standby"))
    assert "gate      failures: FAILED" in run(berth, "migration", ended.id)[1]
    assert "rejected: failures: " in run(berth, "revisions", "m")[1]


def test_a_migration_survives_control_and_is_paused_by_hand(berth: Appliance) -> None:
    with Clients(berth):
        assert run(berth, "migrate", "m", "--to", SGLANG, "--steps", "50", "--step-time", "600")[0] == 0
        berth.wait(lambda: migration(berth).phase is Phase.CANARY)
        number = newest(berth).id
        assert run(berth, "migration", number, "pause")[0] == 0
        before = berth.state().control_pid
        end(psutil.Process(before))
        berth.wait(lambda: berth.state().control_pid != before)
        berth.wait(lambda: migration(berth).paused.startswith("by shell"))
        assert run(berth, "load", "m")[0] == 4  # one change at a time
        assert run(berth, "migration", number, "resume")[0] == 0
        assert run(berth, "migration", number, "promote")[0] == 0
        berth.wait(lambda: migration(berth).phase is Phase.SETTLING)
        assert run(berth, "migration", number, "promote")[0] == 0  # the one before need not be kept
        berth.wait(lambda: newest(berth).state is OperationState.DONE)

    assert (promoted(berth), statuses(berth)) == ((1, 0), ("standby", "ready"))


def test_without_room_requests_are_queued(berth: Appliance) -> None:
    """Back to the engine that does not run."""
    with Clients(berth):
        code, shown = run(berth, "rollback", "m", "--how", "swap", "--keep", "0", "--wait", "120")
        assert code == 0, shown
        berth.wait(lambda: newest(berth).state is OperationState.DONE)

    assert (promoted(berth), statuses(berth)) == ((0, 1), ("ready", "standby"))
    assert not [one for one in berth.state().replicas if one.requested]


def argv(berth: Appliance, replica: str) -> tuple[str, ...]:
    launch = berth.plan().replica(replica).launch
    assert launch is not None
    return launch.argv


def test_other_arguments_are_set_in_place(berth: Appliance) -> None:
    before = argv(berth, VLLM)
    code, shown = run(berth, "migrate", "m", "--set", "vllm.args+=--ttft 3ms", "--set", "context=2048", "--check")
    assert code == 0, shown
    assert shown.splitlines()[:3] == [
        "  revision {}: in place, requests hold for about {} s".format(*re.findall(r"[0-9]+", shown)[:2]),
        "  changes   engines[0].args=--itl 2ms --ttft 3ms",
        "  changes   context=2048",
    ]
    assert argv(berth, VLLM) == before
    with Clients(berth):
        changes = ("--set", "args+=--ttft 3ms", "--set", "context=2048")
        code, shown = run(berth, "migrate", "m", *changes, *BRIEF, "--trial", "1", "--wait", "120")
        assert code == 0, shown
        assert run(berth, "migration", newest(berth).id, "promote")[0] == 0  # it need not be watched any longer
        berth.wait(lambda: newest(berth).state is OperationState.DONE)

    assert (argv(berth, VLLM)[-2:], promoted(berth)) == (("--ttft", "3ms"), (0, 1))
    assert "context" in run(berth, "diff", "m")[1]
    berth.wait(lambda: statuses(berth) == ("ready", "standby"))
    berth.wait(lambda: berth.get("/v1/models/m").json()["max_model_len"] == 2048)
    # the router was reloaded for that: the worker before ends what it has, for BERTH_DRAIN_TIMEOUT at most
    berth.wait(lambda: len([one for one in berth.find("router").children() if "router" in one.cmdline()]) == 1)


def test_arguments_with_which_it_does_not_start_are_taken_back(berth: Appliance) -> None:
    before = argv(berth, VLLM)
    with Clients(berth):
        code, shown = run(berth, "migrate", "m", "--set", "args=--no-such-option", "--wait", "120")
        assert code == 1, shown

    assert "m-sim is " in newest(berth).reason
    berth.wait(lambda: statuses(berth) == ("ready", "standby"))  # the router learns it a moment later
    assert argv(berth, VLLM) == before
    assert read(berth.paths.data_dir).of("m")[-1].state is RevisionState.REJECTED


def pid(berth: Appliance, replica: str) -> int | None:
    return next(one.pid for one in berth.state().replicas if one.name == replica)


def in_phase(berth: Appliance, phase: Phase) -> Migration:
    berth.wait(lambda: migration(berth).phase is phase)
    return migration(berth)


def test_without_room_the_engine_before_sleeps_until_its_successor_has_proved_itself(tmp_path: Path) -> None:
    """What was tried and failed leaves no trace: the engine before is awake again, and was not started for that."""
    models = sim_models("m", "vllm --itl 2ms", "sglang --itl 2ms", sleep="true")
    swap = ("migrate", "m", "--to", "sglang", "--how", "swap", *BRIEF, "--hold", "600", "--trial")
    with Appliance(models, BERTH_DATA=str(tmp_path), **PATIENT) as berth:
        first = pid(berth.wait_ready(), VLLM)
        with Clients(berth):
            assert run(berth, *swap, "600")[0] == 0
            assert in_phase(berth, Phase.TRIAL).sleeps
            assert (statuses(berth), promoted(berth)) == (("asleep", "ready"), (0, 1))
            berth.wait(lambda: migration(berth).own.attempts > migration(berth).own.probes)
            assert run(berth, "migration", newest(berth).id, "abort")[0] == 0
            in_phase(berth, Phase.ROLLED_BACK)
        assert (statuses(berth), promoted(berth), pid(berth, VLLM)) == (("ready", "standby"), (0, 1), first)

        assert run(berth, *swap, "600")[0] == 0
        in_phase(berth, Phase.TRIAL)
        fault(berth, SGLANG, status=500)
        assert min(berth.chat("m").status_code for _ in range(2)) >= 500  # there is no other one that could answer
        berth.wait(lambda: bool(newest(berth).reason))
        assert (newest(berth).reason[:28], berth.chat("m").status_code) == ("rolled back: failures: 2 of ", 200)

        with Clients(berth):
            code, shown = run(berth, *swap, "0.5", "--wait", "120")
            assert (code, promoted(berth), statuses(berth)) == (0, (1, 0), ("asleep", "ready")), shown
            assert run(berth, "rollback", "m")[0] == 0  # undoes it: nothing starts
            in_phase(berth, Phase.ROLLED_BACK)
        assert (statuses(berth), promoted(berth), pid(berth, VLLM)) == (("ready", "standby"), (0, 1), first)

        assert run(berth, *swap, "0.5", "--wait", "120")[0] == 0
        assert run(berth, "migration", newest(berth).id, "promote")[0] == 0
        in_phase(berth, Phase.DONE)
        assert (statuses(berth), promoted(berth)) == (("standby", "ready"), (1, 0))


def test_the_next_start_takes_what_was_promoted(berth: Appliance) -> None:
    assert run(berth, "migrate", "m", "--to", "sglang", "--steps", "100", *BRIEF[:-1], "0", "--wait", "120")[0] == 0
    berth.wait(lambda: newest(berth).state is OperationState.DONE)
    berth.stop()
    berth.start()
    berth.wait_ready()

    assert berth.plan().models[0].replicas[0] == VLLM  # named by its place: it is sglang now
    assert berth.plan().replica(VLLM).dialect == "sglang"
    assert argv(berth, SGLANG)[-2:] == ("--ttft", "3ms")
    assert berth.plan().models[0].context == 2048
    assert "BERTH_MODELS is unchanged since" in berth.output()

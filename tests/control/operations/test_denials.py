"""Why an operation is denied: the code for programs, and a text that names who is in the way and the next step."""

from dataclasses import replace

import pytest

from berth.control.decisions.records import Goal, Observation, Record
from berth.control.operations.denials import denial, invalid
from berth.ipc.operations import Action, Change, Denial, DenialCode, Operation, Pin
from berth.plan import Launch, ModelRoute, Restarts, Sleep, Standby, Task
from berth.state import ReplicaStatus
from tests.fakes.plans import make_replica

S = ReplicaStatus
CHAT = ModelRoute(
    name="chat", aliases=("gpt",), source="c", task=Task.GENERATE, standby=Standby.HOT, replicas=("r0", "r1")
)
ATTACHED = ModelRoute(name="far", source="f", task=Task.GENERATE, standby=Standby.HOT, replicas=("far",))
NOW = 1_000_000.0


def observed(status: S, *, sleeps: bool = True, goal: Goal | None = None, shutting_down: bool = False) -> Observation:
    sleep = Sleep(sleep_path="/sleep", wake_path="/wake") if sleeps else None
    replicas = [replace(make_replica(name, launch=Launch(argv=("engine",))), sleep=sleep) for name in CHAT.replicas]
    return Observation(
        records=tuple(Record(replica=one, status=status, since=NOW, goal=goal) for one in replicas),
        processes={},
        failures={},
        routes=(CHAT, ATTACHED),
        restarts=Restarts(failures=3),
        shutting_down=shutting_down,
    )


def why(
    action: Action, observation: Observation, *, running: Operation | None = None, pin: Pin | None = None, **fields: str
) -> Denial:
    model = fields.get("model", "chat")
    replicas = CHAT.replicas if model == "chat" else ()
    operation = Operation(id="new", action=action, model=model, replicas=replicas, created_at=NOW)
    found = denial(operation, running, {"chat": pin} if pin else {}, observation)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (Change(action=Action.LOAD, model="chat", drain_s=-1), "drain_s must be between 0 and"),
        (Change(action=Action.LOAD, model="chat", drain_s=1e9), "and is 1e+09"),
        (Change(action=Action.RELOAD, model="chat"), "takes no model"),
        (Change(action=Action.LOAD, model="chat", count=2), "`count`"),
        (Change(action=Action.SCALE, model="chat"), "`count`"),
        (Change(action=Action.SCALE, model="chat", count=3), "1 to 2 replicas, not 3. `berth unload`"),
        (Change(action=Action.SCALE, model="chat", count=0), "1 to 2 replicas, not 0"),
        (Change(action=Action.SCALE, model="far", count=2), "Set `replicas` in BERTH_MODELS"),
    ],
)
def test_change_that_no_operation_can_be_made_of(change: Change, words: str) -> None:
    found = invalid(change, observed(S.READY))
    assert found is not None
    assert found.code is DenialCode.INVALID
    assert words in found.message


@pytest.mark.parametrize("model", ["chat", "gpt", "r1"])
def test_names_of_models_aliases_and_replicas_are_known(model: str) -> None:
    assert invalid(Change(action=Action.RESTART, model=model), observed(S.READY)) is None


def test_unknown_model_is_denied_with_the_models_that_there_are() -> None:
    found = invalid(Change(action=Action.LOAD, model="r1"), observed(S.READY))
    assert found is not None
    assert (found.code, found.message) == (
        DenialCode.UNKNOWN_MODEL,
        "Model 'r1' is not in the plan. Models: chat, far.",
    )


def test_nothing_is_begun_while_berth_shuts_down() -> None:
    assert why(Action.LOAD, observed(S.READY, shutting_down=True)).code is DenialCode.STOPPING


def test_attached_servers_cannot_be_started_or_stopped() -> None:
    found = why(Action.UNLOAD, observed(S.READY), model="far")
    assert found.code is DenialCode.ATTACHED
    assert "'far' is served by attached servers only" in found.message


@pytest.mark.parametrize("action", [Action.UNLOAD, Action.SLEEP])
def test_pinned_model_stays(action: Action) -> None:
    found = why(action, observed(S.READY), pin=Pin(by="ann", since=0.0))
    assert found.code is DenialCode.PINNED
    assert "pinned by ann at 1970-01-01 00:00:00 UTC. `berth unpin chat` ends that." in found.message


def test_order_names_the_operation_that_runs_and_how_to_end_it() -> None:
    running = Operation(id="0ld", action=Action.UNLOAD, model="chat", by="ann", created_at=NOW - 3)
    found = why(Action.RESTART, observed(S.READY), running=running)
    assert found.code is DenialCode.BUSY
    assert "0ld of 'chat' is running: unload, requested by ann 3 s ago. `berth cancel 0ld`" in found.message


@pytest.mark.parametrize(
    ("action", "observation", "code", "words"),
    [
        (Action.SLEEP, observed(S.UNLOADED), DenialCode.NOT_LOADED, "`berth load chat` loads it"),
        (Action.SLEEP, observed(S.READY, sleeps=False), DenialCode.CANNOT_SLEEP, "Set `sleep: true` for 'chat'"),
        (Action.WAKE, observed(S.UNLOADED), DenialCode.NOT_ASLEEP, "is not asleep by request"),
        (Action.WAKE, observed(S.ASLEEP), DenialCode.NOT_ASLEEP, "is not asleep by request"),
        (Action.RESTART, observed(S.UNLOADED), DenialCode.NOT_LOADED, "Nothing of model 'chat' is running"),
    ],
)
def test_status_that_does_not_allow_it(action: Action, observation: Observation, code: DenialCode, words: str) -> None:
    found = why(action, observation)
    assert found.code is code
    assert words in found.message

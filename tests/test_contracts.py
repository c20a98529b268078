"""Plan, Keys and State survive the way through their files, and refuse what is not theirs."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from berth.plan import ApiKey, Keys, Plan
from berth.state import GpuState, Progress, ReplicaState, ReplicaStatus, State
from tests.fakes.plans import GPU_PLAN as PLAN

REPLICA = PLAN.replicas[0]


def test_a_plan_reads_back_as_it_was_written() -> None:
    assert Plan.from_json(PLAN.to_json()) == PLAN


def test_a_plan_finds_its_replicas() -> None:
    assert PLAN.replica("chat-vllm") is REPLICA
    with pytest.raises(KeyError, match="other"):
        PLAN.replica("other")


def test_a_memory_estimate_adds_up() -> None:
    assert REPLICA.memory is not None
    assert REPLICA.memory.total_bytes == 3 + 2 + 4


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "truncated"),
        (b"[]", "Expected `object`, got `array`"),
        (b"{}", "missing required field"),
        (b"null", "Expected `object`, got `null`"),
        (PLAN.to_json()[:-9], "truncated"),
        (b"\xff", "malformed"),
    ],
)
def test_what_is_no_plan_is_a_value_error(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Plan.from_json(data)


def test_other_versions_are_refused() -> None:
    other = PLAN.to_json().replace(b'"version": 1', b'"version": 2')
    with pytest.raises(ValueError, match="plan version 2"):
        Plan.from_json(other)


def test_every_path_of_an_appliance_lies_in_its_run_directory() -> None:
    paths = PLAN.paths
    names = [
        "plan",
        "keys",
        "state",
        "scoreboard",
        "journal",
        "supervisord_conf",
        "supervisord_pid",
        "supervisord_socket",
    ]
    places = [getattr(paths, name) for name in names] + [paths.logs, paths.leaders, paths.replica_log("r")]
    assert all(str(place).startswith("/run/berth/") for place in places)
    assert len(set(places)) == len(places)


def test_keys_are_read_back_and_never_shown() -> None:
    keys = Keys(api_keys=(ApiKey(name="a", digests=("abc",), share=2),), upstream_keys={"r": "secret"})
    assert Keys.from_json(keys.to_json()) == keys
    assert repr(keys) == "Keys(api_keys=1, upstream_keys=1)"


def test_what_an_engine_writes_is_shown_without_its_keys() -> None:
    keys = Keys(upstream_keys={"a": "k3y"}, hub_token="hf_x", engine_env={"a": {"LEVEL": "debug"}})
    assert keys.masked("server_args={'api_key': 'k3y'} hf_x debug") == "server_args={'api_key': '***'} *** debug"
    assert Keys().masked("text") == "text"


STATES = st.builds(
    State,
    sequence=st.integers(0, 2**31),
    published_at=st.floats(0, 2**31),
    control_pid=st.integers(1, 2**22),
    replicas=st.lists(
        st.builds(
            ReplicaState,
            name=st.text(max_size=8),
            status=st.sampled_from(ReplicaStatus),
            since=st.floats(0, 2**31),
            progress=st.none() | st.builds(Progress, phase=st.text(max_size=5), percent=st.none() | st.floats(0, 100)),
            last_lines=st.lists(st.text(max_size=9), max_size=3).map(tuple),
        ),
        max_size=3,
    ).map(tuple),
    gpus=st.just((GpuState(index=0, memory_used_bytes=1, memory_total_bytes=2),)),
)


@settings(max_examples=30)
@given(STATES)
def test_a_state_reads_back_as_it_was_written(state: State) -> None:
    assert State.from_json(state.to_json()) == state


def test_a_state_of_another_version_is_refused() -> None:
    state = State(sequence=1, published_at=0, control_pid=1, replicas=())
    with pytest.raises(ValueError, match="state version 9"):
        State.from_json(state.to_json().replace(b'"version":1', b'"version":9'))
    with pytest.raises(msgspec.DecodeError):
        State.from_json(state.to_json()[:-5])

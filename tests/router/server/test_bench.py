"""What POST of /admin/bench accepts, and how results are listed."""

import orjson
import pytest

from berth.errors import InvalidRequestError
from berth.ipc.bench import Bench
from berth.ipc.operations import Action, Change
from berth.router.server.bench import DRAIN_S, change_of, summary
from tests.bench.results_of import standard


def test_fields_are_those_of_the_command() -> None:
    fields = {
        "model": "chat",
        "engines": ["vllm", "sglang"],
        "workload": "512/64",
        "rounds": 2,
        "rate": 1.5,
    }
    options = Bench(engines=("vllm", "sglang"), workload="512/64", rounds=2, rate=1.5)
    expected = Change(action=Action.LEASE, model="chat", drain_s=DRAIN_S, bench=options, by="me")
    assert change_of(orjson.dumps(fields), "me") == expected
    assert change_of(b'{"model": "chat", "drain_s": 5}', "me").drain_s == 5


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"7", b'{"model": 7}', b'{"model": "m", "rounds": "x"}', b"[" * 9999]
)
def test_anything_else_is_refused_with_an_example(body: bytes) -> None:
    with pytest.raises(InvalidRequestError, match="Send, for example"):
        change_of(body, "me")


def test_unknown_field_is_named() -> None:
    with pytest.raises(InvalidRequestError, match="no field 'engine'") as error:
        change_of(b'{"model": "m", "engine": "vllm"}', "me")
    assert error.value.param == "engine"


def test_files_are_not_read_over_the_network() -> None:
    with pytest.raises(InvalidRequestError, match="Only the command line"):
        change_of(b'{"model": "m", "workload": "file:/etc/passwd"}', "me")


def test_row_of_the_list() -> None:
    row = summary(standard())
    assert (row["id"], row["model"], row["chosen"], row["valid"]) == (12, "chat", "chat-sglang", True)
    assert row["engines"] == ["chat-vllm", "chat-sglang"]

"""An attached server that was not there when the plan was made is asked what it is once it answers."""

from dataclasses import replace
from pathlib import Path

import pytest

from berth.control.attached.attachment import Attachments, as_discovered
from berth.control.decisions.lifecycle import first_records
from berth.control.probes import Prober
from berth.control.publish import ControlState, Publisher, Seen
from berth.control.recovery import restore
from berth.plan import DialectName, Discovered, Replica
from berth.state import State
from tests.fakes.attached import LlamacppServer
from tests.fakes.plans import make_plan, make_replica
from tests.fakes.ports import free_port
from tests.fakes.upstream import FakeUpstream, Request, Step, error_answer, json_answer

pytestmark = pytest.mark.anyio
FOUND = Discovered(
    dialect=DialectName.LLAMACPP,
    api_path="",
    served_name="theirs",
    context=2048,
    concurrency=2,
    batch=None,
    weights="llamacpp 127.0.0.1 /m.gguf 9 8 7",
)


def unreached(port: int) -> Replica:
    replica = make_replica("m-attached", launch=None, port=port)
    return replace(replica, dialect=DialectName.OPENAI, served_name=replica.model, detects=True, unreached=True)


def llamacpp_at_its_root(request: Request) -> tuple[Step, ...]:
    documents = {
        "/models": {
            "data": [
                {
                    "id": "theirs",
                    "owned_by": "llamacpp",
                    "meta": {"n_ctx": 2048, "size": 9, "n_params": 8, "n_vocab": 7},
                }
            ]
        },
        "/props": {"total_slots": 2, "model_path": "/m.gguf"},
    }
    found = documents.get(request.path)
    return (error_answer("Not Found", status=404) if found is None else json_answer(found),)


async def test_server_says_what_it_is() -> None:
    with FakeUpstream() as server:
        server.answers_with(llamacpp_at_its_root)
        replica = unreached(server.port)
        async with Prober() as prober:
            assert await Attachments(prober, make_plan("/run", replica)).discover(replica) == FOUND
        assert {request.method for request in server.requests} == {"GET"}


async def test_silent_server_is_asked_again_later() -> None:
    replica = unreached(free_port())
    async with Prober() as prober:
        assert await Attachments(prober, make_plan("/run", replica)).discover(replica) is None


async def test_other_server_of_the_same_weights_is_a_peer_from_then_on() -> None:
    """It is asked whether it continues an answer."""
    with FakeUpstream() as server:
        server.answers_with(LlamacppServer())
        replica = unreached(server.port)
        peer = replace(replica, name="peer", weights="w")
        async with Prober() as prober:
            attachments = Attachments(prober, make_plan("/run", replica, peer))
            known = replace(as_discovered(replica, replace(FOUND, api_path="/v1")), weights="w")
            finding = await attachments.first_token(known, await attachments.health(known, known.ready))
    assert finding.continues == ("chat", "completion")


def test_discovered_replica_is_probed_as_its_dialect_says() -> None:
    known = as_discovered(unreached(1), FOUND)
    assert (known.dialect, known.ready.path, known.path("/v1/models")) == (DialectName.LLAMACPP, "/health", "/models")


def test_next_control_knows_it_too(tmp_path: Path) -> None:
    plan = make_plan(str(tmp_path), unreached(1))
    (first,) = first_records(plan, 0.0)
    known = replace(first, replica=as_discovered(first.replica, FOUND), discovered=FOUND)
    publisher = Publisher(plan.paths)
    publisher.publish([known], Seen(), ControlState(supervisord="1"), always=True)

    (restored,) = restore(
        (first,),
        State.from_json(plan.paths.state.read_bytes()),
        ControlState(supervisord="1"),
        {},
        {},
        routes=plan.models,
        now=1.0,
        offset_s=publisher.offset_s,
    )

    assert (restored.replica, restored.discovered) == (known.replica, FOUND)

"""What control finds out about servers that speak as the real ones do."""

from dataclasses import replace

import pytest

from berth.control.attached.attachment import Attachments, Finding
from berth.control.probes import Prober
from berth.engines.registry import probes
from berth.plan import DialectName, EngineName, Replica, Task
from tests.fakes.attached import (
    AttachedServer,
    CircleOfBerths,
    CountsWithoutTemplate,
    Elsewhere,
    ImageServer,
    LlamacppPythonServer,
    LlamacppServer,
    MlxServer,
    Serve,
    StartingBerth,
    TransformersServer,
)
from tests.fakes.plans import make_plan, make_replica
from tests.fakes.ports import free_port
from tests.fakes.upstream import HANG, RESET, FakeUpstream, Request

pytestmark = pytest.mark.anyio
OPENAI = DialectName.OPENAI


def stopped(server: AttachedServer) -> AttachedServer:
    server.stopped = True
    return server


def attached(port: int, dialect: DialectName = OPENAI, *, weights: str = "", task: Task = Task.GENERATE) -> Replica:
    ready, alive = probes(EngineName.REMOTE, dialect)
    replica = replace(make_replica("far", launch=None, port=port), dialect=dialect, served_name="m", task=task)
    return replace(replica, ready=ready, alive=alive, weights=weights)


async def found(replica: Replica, *, key: str = "", limit_s: float = 2.0) -> Finding:
    """As control asks a server that is not ready yet."""
    plan = make_plan("/run", replica, replace(replica, name="peer"))
    plan = replace(plan, limits=replace(plan.limits, first_token_timeout_s=limit_s))
    async with Prober({"far": key} if key else {}) as prober:
        attachments = Attachments(prober, plan)
        health = await attachments.health(replica, replica.ready)
        return health if health.error else await attachments.first_token(replica, health)


HINT = "(check this engine's `api_key`, `model` and `url` in BERTH_MODELS)"
REFUSES = "the server refuses Berth's request: "


@pytest.mark.parametrize(
    ("serve", "error"),
    [
        (LlamacppServer(), ""),
        (LlamacppServer(loading=True), "loading: Loading model"),
        (LlamacppServer(key="s3cret"), f"wrong key: {REFUSES}Invalid API Key {HINT}"),
        (LlamacppServer(models=("a", "b")), f"unknown model: {REFUSES}model 'm' not found {HINT}"),
        (MlxServer(), ""),
        (stopped(MlxServer()), "failing: /health returned 503"),
        (TransformersServer(), f"unknown model: {REFUSES}Server is pinned to 'org/pinned'; requests for 'm' are"),
        (LlamacppPythonServer(), ""),
        (StartingBerth(), "loading: Model 'm' is starting on vllm: load 45 %."),
        (CircleOfBerths(), "failing: The request has passed 1 Berths."),
        (ImageServer(), ""),
        (Elsewhere(), "failing: Not Found"),
        (lambda _: (RESET,), "no answer: "),
        (lambda _: (HANG,), "no answer: "),
    ],
    ids=lambda value: type(value).__name__ if callable(value) else "",
)
async def test_server_is_ready_only_if_it_serves(serve: Serve, error: str) -> None:
    with FakeUpstream() as upstream:
        upstream.answers_with(serve)
        replica = attached(upstream.port)
        finding = await found(replace(replica, ready=replace(replica.ready, timeout_s=0.5)))

    assert finding.error.startswith(error)
    assert bool(finding.error) == bool(error)
    assert finding.loading == error.startswith("loading")


async def test_right_key_is_sent() -> None:
    with FakeUpstream() as upstream:
        upstream.answers_with(LlamacppServer(key="s3cret"))

        assert (await found(attached(upstream.port), key="s3cret")).error == ""


async def test_server_that_is_not_there_is_no_connection() -> None:
    assert (await found(attached(free_port()))).error.startswith("no connection: cannot connect to http://127.0.0.1:")


async def test_generator_that_hangs_is_no_answer() -> None:
    def hangs(request: Request) -> tuple[object, ...]:
        return (HANG,) if request.method == "POST" else LlamacppServer()(request)

    with FakeUpstream() as upstream:
        upstream.answers_with(hangs)  # type: ignore[arg-type] # steps of any kind

        assert (await found(attached(upstream.port), limit_s=0.3)).error == (
            "no answer: /v1/chat/completions timed out after 0.3 s"
        )


async def test_server_is_asked_for_one_token_where_it_first_answers() -> None:
    with FakeUpstream() as upstream:
        upstream.answers_with(LlamacppServer())
        await found(attached(upstream.port))

        paths = [request.path for request in upstream.requests]
        assert paths[:2] == ["/health/liveliness", "/health"]
        assert {*paths[2:]} == {"/v1/chat/completions"}  # without a peer, completions are not continued
        assert {request.json["max_tokens"] for request in upstream.requests[2:]} == {1}


@pytest.mark.parametrize(
    ("task", "path"),
    [(Task.EMBED, "/v1/embeddings"), (Task.RERANK, "/rerank"), (Task.CLASSIFY, "/classify")],
)
async def test_other_tasks_have_their_own_request(task: Task, path: str) -> None:
    with FakeUpstream() as upstream:
        upstream.answers_with(Elsewhere())
        finding = await found(attached(upstream.port, DialectName.VLLM, task=task))

        assert upstream.requests[-1].path == path
        assert finding.error == "failing: Not Found"


async def test_known_path_is_asked_first_until_it_is_gone() -> None:
    replica_of, server = attached, LlamacppServer()
    with FakeUpstream() as upstream:
        replica = replica_of(upstream.port)
        async with Prober() as prober:
            attachments = Attachments(prober, make_plan("/run", replica))
            for serve in (server, server, CountsWithoutTemplate(), CountsWithoutTemplate()):
                upstream.answers_with(serve)
                assert not (await attachments.health(replica, replica.alive)).error

        assert [request.path for request in upstream.requests] == [
            *("/health/liveliness", "/health"),
            "/health",
            *("/health", "/health/liveliness", "/v1/models"),
            "/v1/models",
        ]


@pytest.mark.parametrize(
    ("serve", "continues"),
    [
        (LlamacppServer(), ("chat", "completion")),
        (MlxServer(), ()),
        (LlamacppPythonServer(), ("completion",)),
        (CountsWithoutTemplate(), ("completion",)),
    ],
    ids=lambda value: type(value).__name__ if callable(value) else "",
)
async def test_whether_a_server_continues_is_seen_in_its_answers(serve: Serve, continues: tuple[str, ...]) -> None:
    with FakeUpstream() as upstream:
        upstream.answers_with(serve)

        assert await found(attached(upstream.port, weights="w")) == Finding(continues=continues)


@pytest.mark.parametrize(
    ("dialect", "weights", "given"),
    [(OPENAI, "w", True), (OPENAI, "w", False), (DialectName.VLLM, "w", None)],
    ids=["configured", "configured not to", "known of its kind"],
)
async def test_server_is_not_asked_what_is_known(dialect: DialectName, weights: str, given: bool | None) -> None:
    with FakeUpstream() as upstream:
        upstream.answers_with(LlamacppServer())
        finding = await found(replace(attached(upstream.port, dialect, weights=weights), continues=given))

        assert finding == Finding()
        assert sum(request.method == "POST" for request in upstream.requests) == 1

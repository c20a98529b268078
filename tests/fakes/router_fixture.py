"""The shared router of the router tests, and the fake engines behind it."""

from dataclasses import dataclass

from berth.plan import DialectName, Plan, Task
from berth.state import Progress, ReplicaState, ReplicaStatus
from tests.fakes.ports import free_port
from tests.fakes.router import RouterProcess, make_plan, publish, replica, replica_state, route
from tests.fakes.upstream import FakeUpstream


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterFixture:
    router: RouterProcess
    first: FakeUpstream  # of the models "chat" and "solo", a vLLM
    second: FakeUpstream  # of the model "chat", an SGLang
    embedder: FakeUpstream  # of the model "org/embed"
    strict: FakeUpstream  # of the model "strict", a TensorRT-LLM

    @property
    def url(self) -> str:
        return self.router.url

    def forget(self) -> None:
        """Resets the engines."""
        for engine in (self.first, self.second, self.embedder, self.strict):
            engine.forget()
        if any(not name.startswith(("limping", "dead")) for name in self.router.left_alone()):
            self.router.make_well(*fixture_states(self.router.plan))


def fixture_plan(
    run_dir: str, first: FakeUpstream, second: FakeUpstream, embedder: FakeUpstream, strict: FakeUpstream
) -> Plan:
    unused_url = f"http://127.0.0.1:{free_port()}"
    replicas = (
        replica("chat-vllm", first.url, vocab_size=1000),
        replica("chat-sglang", second.url, dialect=DialectName.SGLANG, vocab_size=1000),
        replica("solo-vllm", first.url),
        replica("strict-trtllm", strict.url, dialect=DialectName.TRTLLM),
        replica("mixed-trtllm", strict.url, dialect=DialectName.TRTLLM),
        replica("mixed-vllm", first.url),
        replica("limping-a", unused_url),
        replica("limping-b", second.url),
        replica("dead-a", unused_url),
        replica("dead-b", unused_url),
        replica("org/embed-vllm", embedder.url, task=Task.EMBED),
        replica("loading-vllm", unused_url, launched=True),
        replica("failed-vllm", unused_url, launched=True),
    )
    routes = (
        route("chat", ["chat-vllm", "chat-sglang"], aliases=("gpt-4o-mini",), context=4096),
        route("solo", ["solo-vllm"]),
        route("strict", ["strict-trtllm"]),
        route("mixed", ["mixed-trtllm", "mixed-vllm"]),
        route("limping", ["limping-a", "limping-b"]),
        route("dead", ["dead-a", "dead-b"]),
        route("org/embed", ["org/embed-vllm"], task=Task.EMBED),
        route("loading", ["loading-vllm"]),
        route("failed", ["failed-vllm"]),
    )
    return make_plan(run_dir, replicas, routes)


def publish_fixture(plan: Plan) -> None:
    publish(plan, *fixture_states(plan))


def fixture_states(plan: Plan) -> list[ReplicaState]:
    ready = [replica_state(r.name, ReplicaStatus.READY) for r in plan.replicas if r.launch is None]
    loading = replica_state("loading-vllm", ReplicaStatus.STARTING, progress=Progress(phase="load", percent=45.0))
    failed = replica_state("failed-vllm", ReplicaStatus.FAILED, reason="the model is not there")
    return [*ready, loading, failed]

"""Names, addresses and launch orders of replicas; the engine itself is a fake that writes down its order."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from berth.boot.config.models import EngineSpec, ModelSpec
from berth.boot.config.settings import Settings
from berth.boot.planner.allocation import allocate
from berth.boot.planner.attached_replica import discovered
from berth.boot.planner.inputs import HostInfo
from berth.boot.planner.replicas import (
    LONGEST_SOCKET,
    ReplicaBuilder,
    replica_names,
    sleep_calls,
    socket_path,
    weights_id,
)
from berth.boot.planner.resolve import ResolvedModel, resolve_models
from berth.engines.base import LaunchOrder, ModelFacts
from berth.engines.registry import ENGINES, probes
from berth.plan import Adapter, DialectName, EngineName, Gpu, Launch, Probe, Replica, Sleep, Standby, Task
from tests.fakes.machine import CPU_ENGINES, QWEN_8B, gpus, host_info

VLLM, SGLANG, SIM = (EngineSpec(engine=name) for name in (EngineName.VLLM, EngineName.SGLANG, EngineName.SIM))
CHAT = ModelSpec(name="chat", source="Qwen/Qwen3-8B", engines=(VLLM, SGLANG))
UP = Probe(path="/up")


@dataclass(slots=True)
class FakeEngine:
    name: EngineName
    dialect: DialectName = DialectName.VLLM
    ready: Probe = UP
    alive: Probe = UP
    sleep: Sleep | None = None
    takes_socket: bool = False
    traces_flags: tuple[str, ...] = ()
    start_timeout_s: float = 1.0
    stop_timeout_s: float = 7.0
    orders: list[LaunchOrder] = field(default_factory=list)

    def launch(self, order: LaunchOrder) -> Launch:
        self.orders.append(order)
        return Launch(argv=("serve", order.source))

    def overhead_bytes(self, *, gpus: int) -> int:
        return gpus

    def concurrency(self, order: LaunchOrder) -> int | None:
        return 100 + len(order.extra_args)


def fakes() -> dict[EngineName, FakeEngine]:
    return {name: FakeEngine(name) for name in EngineName}


def built(
    *specs: ModelSpec, engines: dict[EngineName, FakeEngine], host: HostInfo, settings: Settings | None = None
) -> list[list[Replica]]:
    settings = replace(settings or Settings(models=()), models=specs)
    models = resolve_models(settings, host)
    allocations = allocate(models, settings, host, engines)
    found = discovered(models, replica_names(models), host)
    builder = ReplicaBuilder(settings=settings, host=host, engines=engines, allocations=allocations, found=found)
    return builder.replicas(models)


def test_launch_order_is_complete() -> None:
    engines, host = fakes(), host_info(*gpus(2), describe=lambda _spec: replace(QWEN_8B, chat_template="{{ x }}"))
    settings = Settings(models=(), engine_home="/opt/engines", run_dir="/run/b", data_dir="/d", offline=True)
    entry = replace(VLLM, args=("--x",), env={"A": "1"})

    built(replace(CHAT, revision="v1", engines=(entry,)), engines=engines, host=host, settings=settings)

    (order,) = engines[EngineName.VLLM].orders
    assert order.memory is not None
    assert order == LaunchOrder(
        replica="chat-vllm",
        served_name="chat",
        source="Qwen/Qwen3-8B",
        revision="v1",
        port=21000,
        gpus=host.inventory.gpus[:1],
        memory=order.memory,
        memory_fraction=0.9,
        context=40960,
        dtype="bfloat16",
        model=ModelFacts(model_type="qwen3", source="Qwen/Qwen3-8B", template="{{ x }}"),
        home="/opt/engines/vllm",
        version="0.33.0",
        python="/usr/bin/python3",
        run_dir="/run/b",
        data_dir="/d",
        offline=True,
        extra_args=("--x",),
    )


def test_every_replica_has_the_fields_that_may_pass() -> None:
    attached = EngineSpec(engine=EngineName.REMOTE, url="http://10.0.0.2:9")
    model = replace(CHAT, engines=(VLLM, SIM, attached), pass_fields=("chat_template",))

    ((*replicas,),) = built(model, engines=fakes(), host=host_info(*gpus(2)))

    assert [replica.pass_fields for replica in replicas] == [("chat_template",)] * 3


def test_plan_names_user_variables_without_values() -> None:
    entry = replace(VLLM, env={"S3_SECRET": "s3cret", "A": "1"})

    ((replica,),) = built(replace(CHAT, engines=(entry,)), engines=fakes(), host=host_info(*gpus(1)))

    assert replica.launch is not None
    assert replica.launch.own_env == ("S3_SECRET", "A")
    assert "s3cret" not in str(replica)


def test_replica_has_address_gpus_and_limits() -> None:
    settings = Settings(models=(), start_timeout_s=99)

    ((first, second),) = built(CHAT, engines=fakes(), host=host_info(*gpus(1)), settings=settings)

    assert (first.name, first.url, first.gpus, first.context) == ("chat-vllm", "http://127.0.0.1:21000", (0,), 40960)
    assert (first.vocab_size, first.memory_fraction, first.task) == (151936, 0.9, Task.GENERATE)
    assert (first.start_timeout_s, first.stop_timeout_s) == (99, 7.0)
    assert first.launch == Launch(argv=("serve", "Qwen/Qwen3-8B"))
    assert (first.ready, first.alive) == probes(EngineName.VLLM, DialectName.VLLM)
    assert (second.name, second.url) == ("chat-sglang", "http://127.0.0.1:21001")


def test_concurrency_comes_from_the_user_or_the_engine() -> None:
    entries = (replace(VLLM, args=("--x",)), replace(SGLANG, share=2.0))
    spec = replace(CHAT, engines=entries, standby=Standby.HOT)
    attached = ModelSpec(
        name="m", source="u", engines=(EngineSpec(engine=EngineName.REMOTE, url="http://a", share=3.0),), concurrency=4
    )
    host = host_info(*gpus(2))

    own, said, (remote,) = built(spec, replace(spec, name="b", concurrency=7), attached, engines=fakes(), host=host)

    assert [(one.concurrency, one.share) for one in own] == [(101, 1.0), (100, 2.0)]
    assert [one.concurrency for one in said] == [7, 7]
    assert (remote.concurrency, remote.share) == (4, 3.0)


@pytest.mark.parametrize(
    ("standby", "words"),
    [
        (Standby.COLD, "when chat-vllm has failed permanently"),
        (Standby.HOT, "next to chat-vllm"),
        (Standby.WARM, "sleeps until chat-vllm fails"),
    ],
)
def test_second_engine_states_its_purpose(standby: Standby, words: str) -> None:
    ((first, second),) = built(replace(CHAT, standby=standby), engines=fakes(), host=host_info(*gpus(1)))

    assert first.reason == "named in BERTH_MODELS"
    assert words in second.reason


def test_attached_engine_has_no_launch() -> None:
    engines = fakes()
    entry = EngineSpec(
        engine=EngineName.REMOTE, url="http://10.0.0.1:9/x/v1", dialect=DialectName.SGLANG, remote_name="qwen"
    )
    plain = EngineSpec(engine=EngineName.REMOTE, url="http://10.0.0.2:9")
    spec = ModelSpec(name="m", source="http://10.0.0.1:9/x/v1", engines=(entry, plain), context=4096, task=Task.EMBED)

    ((first, second),) = built(spec, engines=engines, host=host_info(ports=()))

    assert first == Replica(
        name="m-attached",
        model="m",
        engine=EngineName.REMOTE,
        dialect=DialectName.SGLANG,
        task=Task.EMBED,
        url="http://10.0.0.1:9/x",
        served_name="qwen",
        context=4096,
        ready=probes(EngineName.REMOTE, DialectName.SGLANG)[0],
        alive=probes(EngineName.REMOTE, DialectName.SGLANG)[1],
        unreached=True,
        reason="attached by its URL; it does not answer now, and is asked what it is as soon as it does",
    )
    assert (second.name, second.dialect, second.served_name) == ("m-attached-2", DialectName.OPENAI, "m")
    assert engines[EngineName.REMOTE].orders == []


@pytest.mark.parametrize(("context", "expected"), [(None, 8192), (1024, 1024)])
def test_simulated_engine_needs_neither_model_nor_gpu(context: int | None, expected: int) -> None:
    engines = fakes()
    spec = ModelSpec(name="m", source="any", engines=(replace(SIM, dialect=DialectName.TRTLLM), SIM), context=context)

    ((first, second),) = built(spec, engines=engines, host=host_info(*gpus(1)))

    assert (first.gpus, first.memory, first.context, first.vocab_size) == ((), None, expected, 32000)
    assert (first.dialect, second.dialect) == (DialectName.TRTLLM, DialectName.VLLM)
    assert [order.dialect for order in engines[EngineName.SIM].orders] == [DialectName.TRTLLM, DialectName.VLLM]
    assert (first.ready, first.alive) == probes(EngineName.SIM, DialectName.TRTLLM)


def test_real_engines_write_their_command_lines() -> None:
    settings = Settings(models=(CHAT, ModelSpec(name="sim", source="x", engines=(SIM,))))
    host = host_info(installed=CPU_ENGINES | {EngineName.SGLANG: CPU_ENGINES[EngineName.VLLM]})
    models = resolve_models(settings, host)
    allocations = allocate(models, settings, host, ENGINES)

    rows = ReplicaBuilder(settings=settings, host=host, engines=ENGINES, allocations=allocations, found={}).replicas(
        models
    )

    launches = [replica.launch for row in rows for replica in row if replica.launch]
    assert [launch.argv[0] for launch in launches] == [
        "/opt/engines/vllm/bin/vllm",
        "/opt/engines/sglang/bin/sglang",
        "/usr/bin/python3",
    ]


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        ([("Qwen/Qwen3-8B", 1)], [["qwen-qwen3-8b-vllm"]]),
        ([("chat", 3)], [["chat-vllm", "chat-vllm-2", "chat-vllm-3"]]),
        ([("chat", 1), ("Chat", 1), ("chat!", 1)], [["chat-vllm"], ["chat-vllm-2"], ["chat-vllm-3"]]),
        ([("a-vllm-2", 1), ("a-vllm", 1)], [["a-vllm-2-vllm"], ["a-vllm-vllm"]]),
        ([("模型", 1)], [["model-vllm"]]),
        ([("..%;\n", 1)], [["model-vllm"]]),
        ([("x" * 500, 1)], [["x" * 60 + "-vllm"]]),
    ],
)
def test_names_are_safe_and_unique(models: list[tuple[str, int]], expected: list[list[str]]) -> None:
    resolved = [
        ResolvedModel(
            spec=ModelSpec(name=name, source="x"), entries=(VLLM,) * count, reason="", info=None, task=Task.GENERATE
        )
        for name, count in models
    ]

    assert replica_names(resolved) == expected


def test_all_engines_after_the_first_of_a_warm_order_sleep() -> None:
    engines = fakes()
    sim = EngineSpec(engine=EngineName.SIM, dialect=DialectName.SGLANG)
    spec = replace(CHAT, engines=(VLLM, SGLANG, sim), standby=Standby.WARM)

    (row,) = built(spec, engines=engines, host=host_info(*gpus(1)))

    paths = [one.sleep.sleep_path if one.sleep else "" for one in row]
    assert paths == ["", "/release_memory_occupation", "/release_memory_occupation"]
    assert [one.sleep for one in built(CHAT, engines=fakes(), host=host_info(*gpus(1)))[0]] == [None, None]


def test_engine_with_a_socket_gets_no_port() -> None:
    engines = fakes()
    engines[EngineName.VLLM] = replace(engines[EngineName.VLLM], takes_socket=True)
    settings = Settings(models=(), run_dir="/run/b")

    ((first, second),) = built(CHAT, engines=engines, host=host_info(*gpus(1)), settings=settings)

    assert (first.url, first.socket_path) == ("unix:/run/b/chat-vllm.sock", "/run/b/chat-vllm.sock")
    assert (second.url, second.socket_path) == ("http://127.0.0.1:21000", "")
    (order,) = engines[EngineName.VLLM].orders
    assert (order.socket, order.port) == ("/run/b/chat-vllm.sock", 0)


@pytest.mark.parametrize(("folder", "fits"), [("/" + "x" * 91, True), ("/" + "x" * 92, False), ("/" + "ü" * 46, False)])
def test_uses_a_port_where_the_socket_path_is_too_long(folder: str, fits: bool) -> None:
    path = socket_path(folder, "chat-vllm")
    assert path == (f"{folder}/chat-vllm.sock" if fits else "")
    if fits:
        assert len(path) == LONGEST_SOCKET
    engines = fakes()
    engines[EngineName.VLLM] = replace(engines[EngineName.VLLM], takes_socket=True)
    settings = Settings(models=(), run_dir=folder)
    ((first, _),) = built(CHAT, engines=engines, host=host_info(*gpus(1)), settings=settings)
    assert first.url == (f"unix:{path}" if fits else "http://127.0.0.1:21000")


def test_weights_id_contains_only_args_that_change_the_weights() -> None:
    entry = replace(VLLM, args=("--port-x", "1", "--quantization=fp8", "--dtype", "half"))
    [model] = resolve_models(Settings(models=(replace(CHAT, engines=(entry, SIM)),)), host_info(*gpus(1)))

    assert weights_id(model, entry) == "Qwen/Qwen3-8B --quantization=fp8 --dtype half"
    assert weights_id(model, SIM) == "sim Qwen/Qwen3-8B"


@pytest.mark.parametrize(
    ("written", "url", "models"),
    [
        ("http://h:1", "http://h:1", "/v1/models"),
        ("http://h:1/v1", "http://h:1", "/v1/models"),
        ("http://h/team/v1", "http://h/team", "/v1/models"),
        ("http://h/api/v3", "http://h/api/v3", "/models"),
        ("http://h/v1beta/openai", "http://h/v1beta/openai", "/models"),
    ],
)
def test_base_url_of_an_attached_server_is_that_of_openais_clients(written: str, url: str, models: str) -> None:
    spec = ModelSpec(name="m", source=written, engines=(EngineSpec(engine=EngineName.REMOTE, url=written),))
    ((replica,),) = built(spec, engines=fakes(), host=host_info(ports=()))
    assert replica.url == url
    assert replica.path("/v1/models") == models
    assert replica.path("/health") == "/health"


LAW = (Adapter(name="law", source="org/law"),)


@pytest.mark.parametrize(
    ("found", "fields", "light"),
    [
        (gpus(1), {}, True),
        (gpus(1), {"extra_args": ("--load-format", "fastsafetensors")}, True),
        (gpus(1), {"extra_args": ("--load-format=sharded_state",)}, False),
        (gpus(1), {"adapters": LAW}, False),
        (gpus(1), {"spare_adapters": LAW}, False),
        (gpus(1), {"task": Task.EMBED}, False),
        ((), {}, False),
    ],
    ids=["on a GPU", "fast loader", "loads once", "with adapters", "adapters later", "pooling", "on the CPU"],
)
def test_vllm_sleeps_without_its_weights_only_where_that_is_safe(
    found: tuple[Gpu, ...], fields: dict[str, Any], light: bool
) -> None:
    order = LaunchOrder(
        replica="a",
        served_name="chat",
        source="x",
        gpus=found,
        home="/e",
        python="python",
        run_dir="/run",
        data_dir="/data",
        **fields,
    )
    calls = sleep_calls(EngineName.VLLM, DialectName.VLLM, order)
    assert calls is not None
    assert (bool(calls.light), bool(calls.reload)) == (light, light)
    assert sleep_calls(EngineName.TRTLLM, DialectName.TRTLLM, order) is None

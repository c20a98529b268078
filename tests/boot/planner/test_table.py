"""The plan as people see it."""

from dataclasses import replace

from inline_snapshot import snapshot

from berth.boot.config.models import EngineSpec, ModelSpec
from berth.boot.config.settings import Settings
from berth.boot.planner.build import make_plan
from berth.boot.planner.inputs import HostInfo
from berth.boot.planner.table import WIDTH, plan_table
from berth.plan import EngineName, GpuInventory, Launch, Plan, Standby
from berth.units import size
from tests.fakes.machine import CPU_ENGINES, gpu, gpus, host_info

VLLM, SGLANG, SIM = (EngineSpec(engine=name) for name in (EngineName.VLLM, EngineName.SGLANG, EngineName.SIM))
CHAT = ModelSpec(name="chat", source="Qwen/Qwen3-8B", aliases=("gpt-4o-mini",), engines=(VLLM, SGLANG))
EMBED = ModelSpec(name="embed", source="BAAI/bge-m3", engines=(VLLM,))
BIG = ModelSpec(name="big", source="meta-llama/Llama-3.3-70B-Instruct", engines=(VLLM,))
TINY = ModelSpec(name="tiny", source="/models/tiny", engines=(VLLM,))
KEYS = ("sk-1",)


def with_short_commands(plan: Plan) -> Plan:
    """The engines' options are their own tests' affair."""
    launch = Launch(argv=("serve", "a b"))
    return replace(plan, replicas=tuple(replace(one, launch=one.launch and launch) for one in plan.replicas))


def table(*models: ModelSpec, host: HostInfo | None = None) -> str:
    plan = make_plan(Settings(models=models, api_keys=KEYS), host or host_info(*gpus(1)))
    return plan_table(with_short_commands(plan))


def test_shows_a_standby_and_an_embedding_model_on_one_gpu() -> None:
    assert table(CHAT, EMBED) == snapshot("""\
Berth will serve on http://0.0.0.0:8000 with 1 router worker(s)

GPUs (driver 580.65.06, CUDA 13.0)
  0  NVIDIA Fake 80GB  80.0 GiB, 80.0 GiB free
     [####################################....] 90.0% planned
        83.6%  chat-vllm or chat-sglang
         6.4%  embed-vllm

chat, also called gpt-4o-mini
  source    Qwen/Qwen3-8B
  task      generate
  context   40960 tokens
  chat-vllm
    engine   vllm (named in BERTH_MODELS)
    where    GPU 0, 83.6% of its memory, unix:/run/berth/chat-vllm.sock
    memory   66.9 GiB = weights 15.3 GiB + KV cache 48.6 GiB + overhead 3.0 GiB
    context  40960 tokens at 144.0 KiB each; the KV cache holds 354066 tokens; up to 40960 would fit
    command  serve 'a b'
  chat-sglang
    engine   sglang (starts when chat-vllm has failed permanently (standby: cold))
    where    GPU 0, 83.6% of its memory, http://127.0.0.1:21000
    memory   66.9 GiB = weights 15.3 GiB + KV cache 47.6 GiB + overhead 4.0 GiB
    context  40960 tokens at 144.0 KiB each; the KV cache holds 346784 tokens; up to 40960 would fit
    command  serve 'a b'

embed
  source    BAAI/bge-m3
  task      embed
  context   8192 tokens
  embed-vllm
    engine   vllm (named in BERTH_MODELS)
    where    GPU 0, 6.4% of its memory, unix:/run/berth/embed-vllm.sock
    memory   5.1 GiB = weights 2.1 GiB + KV cache 0 MiB + overhead 3.0 GiB
    context  8192 tokens; it has no KV cache
    command  serve 'a b'\
""")


def test_lists_each_hot_engine_with_its_share() -> None:
    text = table(replace(CHAT, standby=Standby.HOT))

    assert "  44.4%  chat-vllm\n" in text
    assert "  45.6%  chat-sglang\n" in text
    assert "90.0% planned" in text


def test_shows_memory_per_gpu() -> None:
    text = table(BIG, host=host_info(*gpus(2), gpu(2, mig=True)))

    assert "where    GPU 0, 1, 90.0% of its memory" in text
    assert "per GPU" in text
    assert "2  NVIDIA Fake 80GB  80.0 GiB, 80.0 GiB free, MIG is on, without an instance: not used" in text


def test_shows_why_the_cpu_is_used() -> None:
    text = table(TINY, host=host_info(installed=CPU_ENGINES))

    assert "GPUs: none. no NVIDIA driver here" in text
    assert "where    CPU, unix:/run/berth/tiny-vllm.sock" in text
    assert "KV cache 8 MiB" in text


def test_shows_attached_and_simulated_engines_without_memory() -> None:
    remote = EngineSpec(engine=EngineName.REMOTE, url="http://10.0.0.1:9", remote_name="qwen")

    text = table(ModelSpec(name="m", source="http://10.0.0.1:9/v1", engines=(remote, SIM)))

    assert "where    attached: http://10.0.0.1:9/v1 as 'qwen'" in text
    assert "m-sim" in text
    assert "memory   " not in text


def test_shows_user_variables_without_values() -> None:
    simulated = replace(SIM, env={"A": "s3cret", "B": "s3cret"})

    plan = make_plan(Settings(models=(replace(CHAT, engines=(simulated,)),)), host_info())

    assert "    env      A=*** B=***\n" in plan_table(plan)
    assert "s3cret" not in plan_table(plan)


def test_omits_an_unstated_context() -> None:
    remote = EngineSpec(engine=EngineName.REMOTE, url="http://10.0.0.1:9")

    assert "context" not in table(ModelSpec(name="m", source="http://10.0.0.1:9/v1", engines=(remote,)))


def test_shows_a_driver_without_versions() -> None:
    host = replace(host_info(*gpus(1)), inventory=replace(host_info(*gpus(1)).inventory, driver_version=""))

    assert "GPUs (driver ?, CUDA 13.0)" in table(EMBED, host=host)


def test_warnings_come_last_and_lines_are_wrapped() -> None:
    plan = make_plan(Settings(models=(CHAT, EMBED)), host_info(gpu(free_gib=60)))

    lines = plan_table(plan).splitlines()

    assert lines[-3] == "Warnings"
    assert "private networks may use the models" in lines[-2]
    assert "in use by other processes" in lines[-1]
    assert max(map(len, lines)) <= WIDTH


def test_shows_an_empty_plan() -> None:
    plan = make_plan(Settings(models=(), api_keys=KEYS), host_info())

    assert isinstance(plan.inventory, GpuInventory)
    assert plan_table(plan).endswith("GPUs: none. no NVIDIA driver here: start the container with `--gpus all`")


def test_formats_sizes() -> None:
    assert [size(count) for count in (0, 5 * 2**20, 2**30, 80 * 2**30)] == ["0 MiB", "5 MiB", "1.0 GiB", "80.0 GiB"]


def test_shows_what_a_sleeping_engine_keeps() -> None:
    text = table(replace(CHAT, standby=Standby.WARM))
    assert "chat-vllm or chat-sglang" in text
    assert text.count("    asleep   ") == 1
    assert (
        """\
    engine   sglang (sleeps until chat-vllm fails, then serves (standby: warm))
    where    GPU 0, 87.5% of its memory, http://127.0.0.1:21000
    memory   70.0 GiB = weights 15.3 GiB + KV cache 50.7 GiB + overhead 4.0 GiB
    context  40960 tokens at 144.0 KiB each; the KV cache holds 369503 tokens; up to 40960 would fit
    asleep   15.3 GiB of weights in RAM; it is loaded first, then put to sleep, which releases the
             GPU memory
"""
        in text
    )


def test_shows_that_sleep_on_the_cpu_releases_nothing() -> None:
    pair = replace(TINY, engines=(VLLM, VLLM), standby=Standby.WARM)
    assert "    asleep   it stops working and releases no memory" in table(pair, host=host_info(installed=CPU_ENGINES))


def test_shows_a_sleeping_engine_of_unknown_size() -> None:
    pair = ModelSpec(name="m", source="any", engines=(SIM, SIM), standby=Standby.WARM)
    assert "    asleep   it stops" in table(pair)

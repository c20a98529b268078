"""The plan as people see it."""

import re
from dataclasses import replace

import pytest
from inline_snapshot import snapshot

from berth.boot.checkpoints.cache_layers import CacheLayer, LayerKind
from berth.boot.checkpoints.metadata import ModelInfo
from berth.boot.config.models import EngineSpec, ModelSpec
from berth.boot.config.settings import Settings
from berth.boot.planner.build import make_plan
from berth.boot.planner.inputs import HostInfo
from berth.boot.planner.table import LABEL, VALUE, WIDTH, plan_table
from berth.plan import Adapter, EngineName, GpuInventory, Launch, Plan, RoutingRule, Standby
from berth.units import size
from tests.fakes.api_keys import api_keys
from tests.fakes.machine import BGE_M3, CPU_ENGINES, GIB, QWEN_8B, gpu, gpus, host_info

VLLM, SGLANG, SIM = (EngineSpec(engine=name) for name in (EngineName.VLLM, EngineName.SGLANG, EngineName.SIM))
CHAT = ModelSpec(name="chat", source="Qwen/Qwen3-8B", aliases=("gpt-4o-mini",), engines=(VLLM, SGLANG))
EMBED = ModelSpec(name="embed", source="BAAI/bge-m3", engines=(VLLM,))
BIG = ModelSpec(name="big", source="meta-llama/Llama-3.3-70B-Instruct", engines=(VLLM,))
TINY = ModelSpec(name="tiny", source="/models/tiny", engines=(VLLM,))
KEYS = api_keys("sk-1")


def with_short_commands(plan: Plan) -> Plan:
    """The engines' options are their own tests' affair."""
    launch = Launch(argv=("serve", "a b"))
    return replace(plan, replicas=tuple(replace(one, launch=one.launch and launch) for one in plan.replicas))


def table(*models: ModelSpec, host: HostInfo | None = None) -> str:
    plan = make_plan(Settings(models=models, api_keys=KEYS), host or host_info(*gpus(1)))
    return plan_table(with_short_commands(plan))


# By paragraph: what is shown of CHAT and EMBED on one GPU.
SHOWN = {
    "head": snapshot("Berth will serve on http://0.0.0.0:8000 with 1 router worker(s)"),
    "GPUs": snapshot("""\
GPUs (driver 580.65.06, CUDA 13.0)
  0  NVIDIA Fake 80GB  80.0 GiB, 80.0 GiB free
     [####################################....] 90.0% planned
        83.6%  chat-vllm or chat-sglang
         6.4%  embed-vllm\
"""),
    "chat": snapshot("""\
chat, also called gpt-4o-mini
  source    Qwen/Qwen3-8B
  task      generate
  context   40,960 tokens
  load      always\
"""),
    "chat-vllm": snapshot("""\
  chat-vllm
    engine        vllm                                    named in BERTH_MODELS
    where         GPU 0, 83.6% of its memory              the fewest GPUs that hold it
    address       unix:/run/berth/chat-vllm.sock
    memory        66.9 GiB
      weights       15.3 GiB  #####                       files at the hub
      KV cache      48.6 GiB  ###############             what its share of the GPU leaves
      overhead       3.0 GiB  #                           vllm's figure
    context       40,960 tokens                           the model's limit
      holds       354,066 tokens: 8 full requests         the engine's layout
      each token  144.0 KiB                               its layers in config.json
    command       serve 'a b'\
"""),
    "chat-sglang": snapshot("""\
  chat-sglang
    engine        sglang                                  starts when chat-vllm has failed
                                                          permanently (standby: cold)
    where         GPU 0, 83.6% of its memory              the fewest GPUs that hold it
    address       http://127.0.0.1:21000
    memory        66.9 GiB
      weights       15.3 GiB  #####                       files at the hub
      KV cache      47.6 GiB  ##############              what its share of the GPU leaves
      overhead       4.0 GiB  #                           sglang's figure
    context       40,960 tokens                           the model's limit
      holds       346,784 tokens: 8 full requests         the engine's layout
      each token  144.0 KiB                               its layers in config.json
    command       serve 'a b'\
"""),
    "embed": snapshot("""\
embed
  source    BAAI/bge-m3
  task      embed
  context   8,192 tokens
  load      always\
"""),
    "embed-vllm": snapshot("""\
  embed-vllm
    engine        vllm                                    named in BERTH_MODELS
    where         GPU 0, 6.4% of its memory               the fewest GPUs that hold it
    address       unix:/run/berth/embed-vllm.sock
    memory        5.1 GiB
      weights        2.1 GiB  ########                    files at the hub
      KV cache         0 MiB                              an encoder has none
      overhead       3.0 GiB  ############                vllm's figure
    context       8,192 tokens                            the model's limit
    command       serve 'a b'\
"""),
}


@pytest.mark.parametrize("paragraph", SHOWN)
def test_shows_a_standby_and_an_embedding_model_on_one_gpu(paragraph: str) -> None:
    paragraphs = dict(zip(SHOWN, table(CHAT, EMBED).split("\n\n"), strict=True))
    assert paragraphs[paragraph] == SHOWN[paragraph]


def test_lists_each_hot_engine_with_its_share() -> None:
    text = table(replace(CHAT, standby=Standby.HOT))

    assert "  44.4%  chat-vllm\n" in text
    assert "  45.6%  chat-sglang\n" in text
    assert "90.0% planned" in text


def test_shows_memory_per_gpu() -> None:
    text = table(BIG, host=host_info(*gpus(2), gpu(2, mig=True)))

    assert "where         GPU 0, 1, 90.0% of its memory" in text
    assert "on each GPU" in text
    assert "2  NVIDIA Fake 80GB  80.0 GiB, 80.0 GiB free, MIG is on, without an instance: not used" in text


def test_shows_why_the_cpu_is_used() -> None:
    text = table(TINY, host=host_info(installed=CPU_ENGINES))

    assert "GPUs: none. no NVIDIA driver here" in text
    assert "    where         CPU                                     no GPU for this engine\n" in text
    assert "    address       unix:/run/berth/tiny-vllm.sock\n" in text
    assert "      KV cache         8 MiB" in text


def test_shows_attached_and_simulated_engines_without_memory() -> None:
    remote = EngineSpec(engine=EngineName.REMOTE, url="http://10.0.0.1:9", remote_name="qwen")

    text = table(ModelSpec(name="m", source="http://10.0.0.1:9/v1", engines=(remote, SIM)))

    assert "where         attached: http://10.0.0.1:9/v1 as 'qwen'" in text
    assert "m-sim" in text
    assert "memory   " not in text
    assert "    context       8,192 tokens" in text  # the simulated engine's own


def test_shows_user_variables_without_values() -> None:
    simulated = replace(SIM, env={"A": "s3cret", "B": "s3cret"})

    plan = make_plan(Settings(models=(replace(CHAT, engines=(simulated,)),)), host_info())

    assert "    env           A=*** B=***\n" in plan_table(plan)
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
    assert text.partition("  chat-sglang\n")[2] == snapshot("""\
    engine        sglang                                  sleeps until chat-vllm fails, then serves
                                                          (standby: warm)
    where         GPU 0, 87.5% of its memory              the fewest GPUs that hold it
    address       http://127.0.0.1:21000
    memory        70.0 GiB
      weights       15.3 GiB  ####                        files at the hub
      KV cache      50.7 GiB  ##############              what its share of the GPU leaves
      overhead       4.0 GiB  #                           sglang's figure
    context       40,960 tokens                           the model's limit
      holds       369,503 tokens: 9 full requests         the engine's layout
      each token  144.0 KiB                               its layers in config.json
    asleep        15.3 GiB of weights in RAM              loaded first, then put to sleep, which
                                                          releases the GPU memory
    command       serve 'a b'\
""")


def test_shows_that_sleep_on_the_cpu_releases_nothing() -> None:
    pair = replace(TINY, engines=(VLLM, VLLM), standby=Standby.WARM)
    text = table(pair, host=host_info(installed=CPU_ENGINES))
    assert "    asleep        stops working                           it has no GPU" in text


@pytest.mark.parametrize(("engine", "how"), [(VLLM, "without them"), (SGLANG, "unloaded")])
def test_shows_how_a_model_may_leave_for_others(engine: EngineSpec, how: str) -> None:
    text = table(replace(CHAT, engines=(engine,), standby=Standby.COLD, sleep=True))
    assert f"    asleep        15.3 GiB of weights in RAM              if it suffices, else {how}" in text


def test_shows_a_sleeping_engine_of_unknown_size() -> None:
    pair = ModelSpec(name="m", source="any", engines=(SIM, SIM), standby=Standby.WARM)
    assert "    asleep        stops working" in table(pair)


def plan_of(model: ModelSpec, info: ModelInfo | None = None, host: HostInfo | None = None) -> str:
    """The whole text, with the engine's own command and notes."""
    machine = host or host_info(*gpus(1))
    known = replace(machine, describe=lambda spec: info or machine.describe(spec))
    return plan_table(make_plan(Settings(models=(model,), api_keys=KEYS), known))


def origin(text: str, figure: str) -> str:
    (line,) = [line for line in text.splitlines() if line.strip().startswith(figure) and line.startswith("    ")]
    return line[LABEL + 4 + VALUE :].strip()


ONE = replace(CHAT, engines=(VLLM,))


@pytest.mark.parametrize(
    ("model", "info", "figure", "expected"),
    [
        (ONE, QWEN_8B, "engine", "named in BERTH_MODELS"),
        (ONE, QWEN_8B, "where", "the fewest GPUs that hold it"),
        (replace(ONE, gpus=1), QWEN_8B, "where", "gpus in BERTH_MODELS"),
        (ONE, QWEN_8B, "context", "the model's limit"),
        (replace(ONE, context=4096), QWEN_8B, "context", "context in BERTH_MODELS"),
        (
            replace(ONE, engines=(replace(VLLM, args=("--max-model-len", "auto")),)),
            QWEN_8B,
            "context",
            "args, which win over this figure",
        ),
        (ONE, replace(QWEN_8B, max_position=2**20), "context", "what fits; the model's limit is 1,048,576"),
        (ONE, replace(QWEN_8B, max_position=None), "context", "what fits; the model's limit is unknown"),
        (ONE, QWEN_8B, "weights", "files at the hub"),
        (ONE, replace(QWEN_8B, local=True), "weights", "files on this machine"),
        (
            ONE,
            replace(QWEN_8B, quantization="mxfp4"),
            "weights",
            "files at the hub, with MXFP4's padding",
        ),
        (ONE, replace(QWEN_8B, weights_bytes=None), "weights", "a guess from the model's name"),
        (
            replace(ONE, text_only=True),
            replace(QWEN_8B, weights_bytes=None, multimodal=True, tower_elements=10**8),
            "weights",
            "a guess from the model's name",
        ),
        (ONE, QWEN_8B, "KV cache", "what its share of the GPU leaves"),
        (replace(ONE, kv_cache_bytes=8 * GIB), QWEN_8B, "KV cache", "kv_cache in BERTH_MODELS"),
        (EMBED, BGE_M3, "KV cache", "an encoder has none"),
        (ONE, QWEN_8B, "each token", "its layers in config.json"),
        (ONE, replace(QWEN_8B, cache_layers=()), "each token", "a guess: its layers are unknown"),
        (ONE, QWEN_8B, "overhead", "vllm's figure"),
        (
            ONE,
            replace(QWEN_8B, adapters=(Adapter(name="law", source="o/law", rank=16, weights_bytes=1),)),
            "overhead",
            "vllm's figure, and its adapters",
        ),
        (replace(ONE, prefix_cache=False), QWEN_8B, "prefixes", "prefix_cache"),
    ],
)
def test_says_what_decided_about_each_figure(model: ModelSpec, info: ModelInfo, figure: str, expected: str) -> None:
    assert origin(plan_of(model, info), figure) == expected


def test_says_what_decided_on_a_cpu() -> None:
    host = host_info(installed=CPU_ENGINES)
    text = plan_of(TINY, replace(QWEN_8B, max_position=131_072), host)
    assert origin(text, "KV cache") == "what the weights leave of the RAM"
    assert origin(text, "context") == "the most on a CPU, unless stated"


def test_counts_the_full_requests_that_the_cache_holds() -> None:
    text = plan_of(replace(ONE, context=4096, kv_cache_bytes=GIB))
    assert "    context       4,096 tokens (up to 7,168 fit)" in text
    assert "1 full request " in text
    hybrid = (*QWEN_8B.cache_layers, CacheLayer(kind=LayerKind.RECURRENT, conv_width=10**6, conv_tokens=3))
    assert re.search(r" KiB \+ [0-9.]+ [MG]iB a request", plan_of(ONE, replace(QWEN_8B, cache_layers=hybrid)))


def test_a_wide_figure_has_its_line_and_its_origin_the_next() -> None:
    draft = replace(QWEN_8B, source="owner/a-draft-model-with-a-rather-long-name-eagle3")
    lines = plan_of(replace(ONE, speculation=draft.source), draft).splitlines()
    number = next(index for index, line in enumerate(lines) if "    speculation   eagle3 by" in line)
    assert lines[number + 1].strip() == "speculation"


def test_programs_get_what_decided_too() -> None:
    plan = make_plan(Settings(models=(ONE,)), host_info(*gpus(1)))
    assert plan.replicas[0].origins["context"] == "the model's limit"
    assert b'"origins"' in plan.to_json()
    assert Plan.from_json(plan.to_json()) == plan
    unsized = replace(host_info(*gpus(1)), describe=lambda _spec: replace(QWEN_8B, source="a/b", weights_bytes=None))
    assert make_plan(Settings(models=(ONE,)), unsized).replicas[0].origins["weights"] == "unknown"


def test_shows_the_rules_for_requests() -> None:
    rules = (RoutingRule(name="batch", path="/batch", engine="sim", only=True), RoutingRule(name="2", priority="low"))
    model = ModelSpec(name="m", source="any", engines=(SIM,))
    plan = make_plan(Settings(models=(model,), api_keys=KEYS, routes=rules), host_info())

    lines = plan_table(plan).splitlines()
    start = lines.index("Rules: the first that matches decides")
    assert lines[start + 1 :][:2] == [
        "  - batch: path: /batch -> engine: sim, only: true",
        "  - 2: always -> priority: low",
    ]

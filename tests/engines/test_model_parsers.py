import json
from pathlib import Path
from typing import Any

import pytest

from berth.boot.catalogue.lookup import Catalogue, packaged
from berth.engines.base import CALL_NAME, KnownParser, ModelFacts
from berth.engines.model_parsers import Parsers, known_names, parsers_for
from berth.plan import EngineName
from etc.tools.contract.table import SNAPSHOTS, read

HERMES = '<tool_call>{"name": <function-name>, "arguments": <args-json-object>}</tool_call>'
CODER = "<tool_call><function=example_function_name><parameter=arguments>"
BARS = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>"  # noqa: RUF001 - as the models spell it

CASES = {
    "tiny test model": ("llama", HERMES + "{% if enable_thinking %}<think>{% endif %}", "hermes", None),
    "Qwen2.5": ("qwen2", HERMES, "hermes", None),
    "Qwen3": ("qwen3", HERMES + "<think>\n\n</think>", "hermes", "qwen3"),
    "Qwen3-Coder": ("qwen3_moe", CODER, "qwen3_coder", None),
    "Llama 3.1": ("llama", "<|python_tag|>", "llama3_json", None),
    "Llama 3.2": ("llama", '{"name": function name, "parameters": dictionary', "llama3_json", None),
    "Llama 4": ("llama4", "<|python_start|>", "llama4_pythonic", None),
    "Mistral": ("mistral", "[AVAILABLE_TOOLS][TOOL_CALLS]", "mistral", None),
    "Magistral": ("mistral3", "[TOOL_CALLS][THINK]", "mistral", "mistral"),
    "gpt-oss": ("gpt_oss", "<|channel|>", "openai", "openai_gptoss"),
    "DeepSeek V3": ("deepseek_v3", BARS + "```json", "deepseek_v3", None),
    "DeepSeek V3.1": ("deepseek_v3", BARS + "{% if thinking %}</think>", "deepseek_v31", "deepseek_v3"),
    "DeepSeek V3.2": ("deepseek_v32", "<｜DSML｜invoke>", "deepseek_v32", "deepseek_v3"),  # noqa: RUF001 - as the models spell it
    "DeepSeek R1 distilled": ("qwen2", "<｜Assistant｜></think>", None, "deepseek_r1"),  # noqa: RUF001 - as the models spell it
    "Kimi K2": ("kimi_k2", "<|tool_calls_section_begin|>", "kimi_k2", None),
    "GLM 4.5": ("glm4_moe", "<tool_call><arg_key><think>", "glm45", "glm45"),
    "MiniMax M2": ("minimax_m2", "<minimax:tool_call><think>", "minimax_m2", "minimax_m2"),
    "Granite 3": ("granite", "<|tool_call|>", "granite", None),
    "Phi-4-mini": ("phi3", "<|tool|>", "phi4_mini_json", None),
    "plain": ("llama", "{{ messages }}", None, None),
    "no template": ("llama", None, None, None),
    "nothing known": (None, None, None, None),
}


@pytest.mark.parametrize(("model_type", "template", "tool", "reasoning"), CASES.values(), ids=CASES)
def test_finds_parsers_by_template(
    model_type: str | None, template: str | None, tool: str | None, reasoning: str | None
) -> None:
    found = parsers_for(EngineName.VLLM, ModelFacts(model_type=model_type or "", template=template or ""))

    assert found == Parsers(tool=tool, reasoning=reasoning)


@pytest.mark.parametrize(
    ("engine", "tool", "reasoning"),
    [
        (EngineName.VLLM, "hermes", "qwen3"),
        (EngineName.SGLANG, "qwen25", "qwen3"),
        (EngineName.TRTLLM, "qwen3", "qwen3"),
        (EngineName.SIM, None, None),
    ],
)
def test_parser_names_are_per_engine(engine: EngineName, tool: str | None, reasoning: str | None) -> None:
    found = parsers_for(engine, ModelFacts(model_type="qwen3", template=HERMES + "<think>"))

    assert found == Parsers(tool=tool, reasoning=reasoning)


def test_no_parser_for_an_unsupported_format() -> None:
    found = parsers_for(EngineName.TRTLLM, ModelFacts(model_type="glm4_moe", template="<tool_call><arg_key>arguments"))

    assert found.tool is None


FACTS = json.loads(Path(__file__).with_name("parser_facts.json").read_text())["models"]
UNKNOWN = {"Aleph-Alpha/Kolibri-1": "only its response_template names a format"}


@pytest.mark.parametrize("row", FACTS, ids=[f"{row['source']} {row['model_type']}" for row in FACTS])
@pytest.mark.parametrize("engine", [EngineName.VLLM, EngineName.SGLANG])
def test_the_rules_agree_with_the_catalogue(row: dict[str, Any], engine: EngineName) -> None:
    """By the rendered call, else by the marks in the template: right, or none where only the call could tell."""
    markers = "\n".join(row["markers"])
    for call in (row["call"], ""):
        model = ModelFacts(model_type=row["model_type"], source=row["source"], template=markers, call=call)
        found = parsers_for(engine, model)
        for kind, name in (("tool", found.tool), ("reasoning", found.reasoning)):
            right = right_names(row["source"], engine, kind)
            unknown = row["source"] in UNKNOWN or (not call and kind == "tool")
            assert not right or name in right or (name is None and unknown), (kind, name, right)


def right_names(source: str, engine: EngineName, kind: str) -> tuple[str | None, ...]:
    entry = Catalogue(packaged()).find(source)
    assert entry is not None
    names = entry.model.parsers.get(engine)
    return names.right(kind) if names else ()


KNOWN = [
    KnownParser(engine=EngineName.VLLM, kind="tool", name="hermes", origin="catalogue: x"),
    KnownParser(engine=EngineName.VLLM, kind="reasoning", name=None, origin="catalogue: x"),
]


def test_the_catalogue_wins_over_type_and_template() -> None:
    model = ModelFacts(model_type="kimi_k3", template=CODER + "<think>", known=tuple(KNOWN))
    found = parsers_for(EngineName.VLLM, model)
    assert found == Parsers(tool="hermes")
    assert (found.tool_origin, found.reasoning_origin) == ("catalogue: x", "catalogue: x")


@pytest.mark.parametrize(
    ("model_type", "name", "tool", "origin"),
    [
        ("new", "hermes", "qwen25", "catalogue: x, as hermes of vllm"),
        ("kimi_k3", "hermes", "kimi_k3", "model type"),
        ("new", "xlam", None, "catalogue: x, as xlam of vllm"),
        ("new", "unheard_of", None, "no rule matches the model"),
        ("new", None, None, "no rule matches the model"),
    ],
)
def test_a_parser_of_another_engine_names_the_format(
    model_type: str, name: str | None, tool: str | None, origin: str
) -> None:
    known = (KnownParser(engine=EngineName.VLLM, kind="tool", name=name, origin="catalogue: x"),)
    found = parsers_for(EngineName.SGLANG, ModelFacts(model_type=model_type, known=known))
    assert (found.tool, found.tool_origin) == (tool, origin)


def test_the_checkpoints_own_format_is_read_by_the_engine() -> None:
    model = ModelFacts(model_type="new", response_template=True, template="<tool_call>arguments")
    found = {engine: parsers_for(engine, model) for engine in (EngineName.VLLM, EngineName.SGLANG, EngineName.TRTLLM)}
    assert found[EngineName.VLLM] == Parsers(tool="hf", reasoning="hf")
    assert found[EngineName.SGLANG] == Parsers(tool="response_template", reasoning="response_template")
    assert found[EngineName.TRTLLM] == Parsers(tool="qwen3")


@pytest.mark.parametrize(
    "call",
    [
        f'<function={CALL_NAME}>{{"city": "Paris"}}</function>',
        f'>>>{CALL_NAME}\n{{"city": "Paris"}}',
        f'<TOOLCALL>[{{"name": "{CALL_NAME}", "arguments": {{}}}}]</TOOLCALL>',
        f"<tool_call>{CALL_NAME}<arg_key>city</arg_key>",
        f"<tools><call>{CALL_NAME}</call></tools>",
    ],
)
def test_a_foreign_format_has_no_parser_whatever_else_the_template_contains(call: str) -> None:
    model = ModelFacts(model_type="llama", template="<tool_call> arguments <|python_tag|> [TOOL_CALLS]", call=call)
    assert parsers_for(EngineName.VLLM, model).tool is None


# Names of the engines' lists that no rule uses, with the reason.
LEFT_OUT = {
    ("vllm", "tool"): {
        "beam": "a test of the engine",
        "llama4_json": "llama4_pythonic reads these models",
        "muse": "no public checkpoint",
        "musespark1x": "no public checkpoint",
        "step5": "not in vLLM 0.32, the build for CPUs",
        "qwen3_json": "the same format as hermes",
        "qwen3_xml": "the same format as qwen3_coder",
    },
    ("vllm", "reasoning"): {
        "beam": "a test of the engine",
        "glm47": "glm45 reads these models",
        "minimax_m2_append_think": "leaves the thinking in the text",
        "muse": "no public checkpoint",
        "musespark1x": "no public checkpoint",
        "step5": "not in vLLM 0.32, the build for CPUs",
    },
    ("sglang", "tool"): {
        "auto": "Berth's own rules are right more often",
        "beam": "a test of the engine",
        "glm": "the same as glm45",
        "hermes": "the same as qwen25",
        "nanbeige": "the same as qwen3_coder",
        "qwen": "the same as qwen25",
    },
    ("sglang", "reasoning"): {
        "apertus2509": "its models think only where a request asks for it",
        "auto": "Berth's own rules are right more often",
        "beam": "a test of the engine",
        "dots": "the same as qwen3",
        "gigachat35": "whether its models always think is not stated",
        "minimax-append-think": "leaves the thinking in the text",
        "nanbeige": "the same as qwen3",
        "qwen3-thinking": "the same as qwen3, for checkpoints that always think",
    },
}


@pytest.mark.parametrize("engine", [EngineName.VLLM, EngineName.SGLANG])
@pytest.mark.parametrize(("kind", "flag"), [("tool", "--tool-call-parser"), ("reasoning", "--reasoning-parser")])
def test_every_parser_of_an_engine_is_used_or_left_out_with_a_reason(engine: EngineName, kind: str, flag: str) -> None:
    (table,) = [read(path) for path in SNAPSHOTS.glob(f"{engine}-[0-9]*.json")]
    (parser,) = [option for option in table.options if option.name == flag]
    used = set((getattr(known_names(engine), kind) or "").split(","))
    left_out = LEFT_OUT[engine, kind]
    assert set(map(str, parser.choices)) - used == {name for name, reason in left_out.items() if reason}
    assert used <= set(map(str, parser.choices))


@pytest.mark.parametrize(
    ("model", "arguments", "notes"),
    [
        (ModelFacts(model_type="laguna"), (), ("poolside_v1 (model type)", "poolside_v1 (model type and template)")),
        (ModelFacts(template=HERMES), (), ("hermes (marks in the template)", "no parser (no rule matches the model)")),
        (ModelFacts(call="[TOOL_CALLS]"), ("--reasoning-parser=x",), ("mistral (rendered template)", "x (args)")),
        (ModelFacts(), ("--tool-call-parser", "y"), ("y (args)", "no parser (no rule matches the model)")),
    ],
)
def test_notes_name_what_decided(model: ModelFacts, arguments: tuple[str, ...], notes: tuple[str, str]) -> None:
    tools, thinking = parsers_for(EngineName.VLLM, model).notes(arguments)
    assert (tools, thinking) == (f"tools: {notes[0]}", f"thinking: {notes[1]}")

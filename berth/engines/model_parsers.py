"""The tool and reasoning parsers for a model. The user's own arguments win, since they come last on the command line.
Else the first of these decides:

1. the catalogue, by the hub id or by the model that it was made from (`boot/catalogue`);
2. the model type, where one type has one format;
3. the catalogue's parser of another engine, where this engine has one parser for the same format;
4. the checkpoint's own `response_template`, which engines read themselves;
5. the chat template, rendered with a made-up call (`boot/checkpoints/rendering`): how the call is written;
6. marks in the template, where it could not be rendered or leaves calls out;
7. none. A wrong parser loses text, so no rule is general: each names what only its format has.

The facts are those of the engines' documentation and code and of public recipes, for vLLM 0.33, SGLang 0.5.23 and
TensorRT-LLM 1.2.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from berth.engines.base import CALL_NAME, ModelFacts, ParserKind
from berth.engines.cli_arguments import option
from berth.plan import EngineName


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsers:
    """The names of the parsers in one engine; None: no parser."""

    tool: str | None = None
    reasoning: str | None = None
    tool_origin: str = field(default="", compare=False)  # what decided: "model type"
    reasoning_origin: str = field(default="", compare=False)

    def notes(self, arguments: Sequence[str]) -> tuple[str, ...]:
        """One line per parser with its origin, for `berth plan`. The user's own arguments win."""
        tool = option(arguments, "--tool-call-parser", "--tool-parser")
        reasoning = option(arguments, "--reasoning-parser")
        tool_origin, reasoning_origin = (
            "args" if tool else self.tool_origin,
            "args" if reasoning else self.reasoning_origin,
        )
        return (
            f"tools: {tool or self.tool or 'no parser'} ({tool_origin})",
            f"thinking: {reasoning or self.reasoning or 'no parser'} ({reasoning_origin})",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    """Matches when the model type is listed (or none is), the source and the call match, and the template contains
    every marker. A rule without a name for an engine means that this engine has no parser for the format.
    """

    types: tuple[str, ...] = ()
    name: str = ""  # a pattern for the source
    call: str = ""  # a pattern for the rendered call
    markers: tuple[str, ...] = ()
    vllm: str | None = None
    sglang: str | None = None
    trtllm: str | None = None

    def matches(self, model: ModelFacts) -> bool:
        return (
            (not self.types or model.model_type in self.types)
            and (not self.name or re.search(self.name, model.source, re.IGNORECASE) is not None)
            and (not self.call or re.search(self.call, model.call) is not None)
            and all(marker in model.template for marker in self.markers)
        )

    def name_for(self, engine: EngineName) -> str | None:
        names = {EngineName.VLLM: self.vllm, EngineName.SGLANG: self.sglang, EngineName.TRTLLM: self.trtllm}
        return names.get(engine)


_DEEPSEEK = ("deepseek_v2", "deepseek_v3", "deepseek_v32")
_DISTILLED = (*_DEEPSEEK, "llama", "qwen2")
_QWEN3 = ("qwen3", "qwen3_moe", "qwen3_next", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe")
_QWEN3_5 = ("qwen3_5", "qwen3_5_moe", "interns2_preview")
_GLM = ("glm4_moe", "glm4_moe_lite", "glm4v_moe", "glm_moe_dsa")
_GLM_47 = ("glm4_moe_lite", "glm_moe_dsa")
_GEMMA4 = ("gemma4", "gemma4_text", "gemma4_unified", "diffusion_gemma")
_LING3 = ("bailing_hybrid", "bailing_moe_v3_vl")
_KIMI = ("kimi_k2", "kimi_k25", "kimi_linear", "deepseek_v3")
_LLAMA4 = ("llama4", "llama4_text")
_MINIMAX_M3 = ("minimax_m3", "minimax_m3_vl")
_MISTRAL = ("mistral", "mistral3", "mixtral", "ministral", "ministral3")
_MUSE_GLIMMER = ("muse_glimmer", "muse_glimmer_text")
_STEP3 = ("step3", "step3_vl")
_STEP3_5 = ("step3p5", "step3p7")

_TOOL_TYPES = (
    _Rule(types=("gpt_oss",), vllm="openai", sglang="gpt-oss"),
    _Rule(types=("apertus",), vllm="apertus", sglang="apertus2509"),
    _Rule(types=("afmoe",), vllm="qwen3_coder", sglang="trinity"),
    _Rule(types=_LING3, vllm="ling3", sglang="ling3"),
    _Rule(types=("cohere2",), vllm="cohere_command3"),
    _Rule(types=("cohere2_moe",), vllm="cohere_command4", sglang="cohere_command4"),
    _Rule(types=("deepseek_v32",), vllm="deepseek_v32", sglang="deepseekv32", trtllm="deepseek_v32"),
    _Rule(types=("deepseek_v4",), vllm="deepseek_v4", sglang="deepseekv4"),
    _Rule(types=("deepseek_v41",), vllm="deepseek_v41", sglang="deepseekv41"),
    _Rule(types=("dots1",), vllm="dots", sglang="dots"),
    _Rule(types=("ernie4_5_moe",), vllm="ernie45"),
    _Rule(types=_GEMMA4, vllm="gemma4", sglang="gemma4"),
    _Rule(types=_GLM_47, vllm="glm47", sglang="glm47"),
    _Rule(types=("glm4v_moe",), vllm="glm45", sglang="glm45"),
    _Rule(types=("granitemoehybrid",), vllm="granite4"),
    _Rule(types=("hunyuan_v1_moe",), vllm="hunyuan_a13b"),
    _Rule(types=("hy_v3",), vllm="hy_v3", sglang="hunyuan"),
    _Rule(types=("hy_v4",), vllm="hy_v4"),
    _Rule(types=("inkling",), vllm="inkling", sglang="inkling"),
    _Rule(types=("internlm2", "internlm3"), vllm="internlm"),
    _Rule(types=("interns1",), vllm="internlm", sglang="interns1"),
    _Rule(types=("jamba",), vllm="jamba"),
    _Rule(types=("kimi_k25",), vllm="kimi_k2", sglang="kimi_k2", trtllm="kimi_k2"),
    _Rule(types=("kimi_k3",), vllm="kimi_k3", sglang="kimi_k3"),
    _Rule(types=("laguna",), vllm="poolside_v1", sglang="poolside_v1"),
    _Rule(types=("lfm2", "lfm2_moe"), vllm="lfm2", sglang="lfm2"),
    _Rule(types=_LLAMA4, vllm="llama4_pythonic", sglang="pythonic"),
    _Rule(types=("longcat_flash",), vllm="longcat"),
    _Rule(types=("mellum2",), vllm="hermes", sglang="qwen25"),
    _Rule(types=("mimo_v2",), vllm="mimo", sglang="mimo"),
    _Rule(types=("minicpm5",), vllm="minicpm5", sglang="minicpm5"),
    _Rule(types=("minimax_m2",), vllm="minimax_m2", sglang="minimax-m2"),
    _Rule(types=_MINIMAX_M3, vllm="minimax_m3", sglang="minimax-m3"),
    _Rule(types=_MUSE_GLIMMER, vllm="muse_glimmer", sglang="muse"),
    _Rule(types=("olmo3",), vllm="olmo3"),
    _Rule(types=("plamo3",), vllm="plamo3"),
    _Rule(types=_QWEN3_5, vllm="qwen3_coder", sglang="qwen3_coder", trtllm="qwen3_coder"),
    _Rule(types=("qwen3_next",), name="coder", vllm="qwen3_coder", sglang="qwen3_coder", trtllm="qwen3_coder"),
    _Rule(types=("qwen3_next",), vllm="hermes", sglang="qwen25", trtllm="qwen3"),
    _Rule(types=("seed_oss",), vllm="seed_oss"),
    _Rule(types=_STEP3, vllm="step3", sglang="step3"),
    _Rule(types=_STEP3_5, vllm="step3p5", sglang="step3p5"),
    _Rule(types=("mistral3", "ministral3"), vllm="mistral", sglang="mistral"),
    _Rule(name="xlam", vllm="xlam"),
)

_TOOL_CALLS = (
    _Rule(call=r"<\|tool_calls_section_begin\|>", vllm="kimi_k2", sglang="kimi_k2", trtllm="kimi_k2"),
    _Rule(call="<｜DSML｜function_calls>", vllm="deepseek_v32", sglang="deepseekv32", trtllm="deepseek_v32"),  # noqa: RUF001 - DeepSeek's own bars
    _Rule(call="<｜DSML｜tool_calls>", vllm="deepseek_v4", sglang="deepseekv4"),  # noqa: RUF001 - DeepSeek's own bars
    _Rule(
        types=_DEEPSEEK,
        call="<｜tool▁call▁begin｜>function<｜tool▁sep｜>",  # noqa: RUF001 - DeepSeek's own bars
        vllm="deepseek_v3",
        sglang="deepseekv3",
        trtllm="deepseek_v3",
    ),
    _Rule(
        types=_DEEPSEEK,
        call=f"<｜tool▁call▁begin｜>{CALL_NAME}<",  # noqa: RUF001 - DeepSeek's own bars
        vllm="deepseek_v31",
        sglang="deepseekv31",
        trtllm="deepseek_v31",
    ),
    _Rule(call=r"function call<\|role_sep\|>", vllm="gigachat3", sglang="gigachat3"),
    _Rule(call=r"<\|tools_prefix\|>\[\{", vllm="apertus", sglang="apertus2509"),
    _Rule(call=r"<\|tool_call_start\|>\[", vllm="lfm2", sglang="lfm2"),
    _Rule(call="<minimax:tool_call>", vllm="minimax_m2", sglang="minimax-m2"),
    _Rule(call=r"\]<\]minimax\[>\[", vllm="minimax_m3", sglang="minimax-m3"),
    _Rule(call=r"<\|START_ACTION\|>[\s\S]*tool_call_id", vllm="cohere_command4", sglang="cohere_command4"),
    _Rule(call=r"\[TOOL_CALLS\]", vllm="mistral", sglang="mistral"),
    _Rule(call=r"<\|tool_call>call:", vllm="gemma4", sglang="gemma4"),
    _Rule(call="<start_function_call>call:", vllm="functiongemma"),
    _Rule(call=r"<function_call> ?\{", vllm="granite-20b-fc"),
    _Rule(call=r"<\|tool_call\|>\s*\[", types=("granite",), vllm="granite"),
    _Rule(call=r"<\|action_start\|><\|plugin\|>", vllm="internlm"),
    _Rule(call=r"<tool_calls>\[", vllm="hunyuan_a13b"),
    _Rule(call=r"<ifm\|tool_calls>", vllm="k2_horizon", sglang="k2_horizon"),
    _Rule(call="<iquest_tool_call>", sglang="iquest_q1"),
    _Rule(call="<｜GCML｜tool_calls>", sglang="gigachat35"),  # noqa: RUF001 - GigaChat's own bars
    _Rule(call="<longcat_tool_call>", vllm="longcat"),
    _Rule(call="<seed:tool_call>", vllm="seed_oss"),
    _Rule(call=rf"<tool_call>{CALL_NAME}\n<arg_key>", types=_GLM, vllm="glm45", sglang="glm45"),
    _Rule(call=rf"<tool_call>{CALL_NAME}<arg_key>", types=_GLM, vllm="glm47", sglang="glm47"),
    _Rule(call=rf"<tool_call>{CALL_NAME}<arg_key>", markers=("<|Bot|>",), sglang="spark25"),
    _Rule(
        call=rf"<tool_call>\s*<function={CALL_NAME}>\s*<parameter=",
        vllm="qwen3_coder",
        sglang="qwen3_coder",
        trtllm="qwen3_coder",
    ),
    _Rule(
        call=rf'<tool_call>\s*\{{"name": ?"{CALL_NAME}", ?"arguments"',
        vllm="hermes",
        sglang="qwen25",
        trtllm="qwen3",
    ),
    _Rule(
        types=("llama",),
        call=rf'(>|\s)\{{"name": ?"{CALL_NAME}", ?"parameters"',
        vllm="llama3_json",
        sglang="llama3",
    ),
    _Rule(types=("llama",), call=rf"(>|\s)\[{CALL_NAME}\(", vllm="pythonic", sglang="pythonic"),
    _Rule(types=("phi3", "phi4"), call=rf'<\|assistant\|>\{{"name": "{CALL_NAME}"', vllm="phi4_mini_json"),
)

_TOOL_MARKERS = (
    _Rule(types=_KIMI, markers=("<|tool_calls_section_begin|>",), vllm="kimi_k2", sglang="kimi_k2", trtllm="kimi_k2"),
    _Rule(markers=("<｜DSML｜",), vllm="deepseek_v32", sglang="deepseekv32", trtllm="deepseek_v32"),  # noqa: RUF001 - DeepSeek's own bars
    _Rule(
        types=_DEEPSEEK,
        markers=("<｜tool▁call▁begin｜>", "```json"),  # noqa: RUF001 - DeepSeek's own bars
        vllm="deepseek_v3",
        sglang="deepseekv3",
        trtllm="deepseek_v3",
    ),
    _Rule(
        types=_DEEPSEEK,
        markers=("<｜tool▁call▁begin｜>",),  # noqa: RUF001 - DeepSeek's own bars
        vllm="deepseek_v31",
        sglang="deepseekv31",
        trtllm="deepseek_v31",
    ),
    _Rule(markers=("<minimax:tool_call>",), vllm="minimax_m2", sglang="minimax-m2"),
    _Rule(types=("glm4_moe",), markers=("<arg_key>",), vllm="glm45", sglang="glm45"),
    _Rule(markers=("<arg_key>",)),  # of several families: none without the type
    _Rule(markers=("<tool_call>", "<function="), vllm="qwen3_coder", sglang="qwen3_coder", trtllm="qwen3_coder"),
    _Rule(types=_MISTRAL, markers=("[TOOL_CALLS]",), vllm="mistral", sglang="mistral"),
    _Rule(markers=("<tool_call>", "arguments"), vllm="hermes", sglang="qwen25", trtllm="qwen3"),
    _Rule(markers=("<|start_header_id|>", "<function=")),  # functionary's own format
    _Rule(types=("llama",), markers=("<|python_tag|>",), vllm="llama3_json", sglang="llama3"),
    _Rule(types=("llama",), markers=('{"name": function name, "parameters":',), vllm="llama3_json", sglang="llama3"),
    _Rule(types=("granite",), markers=("<|tool_call|>",), vllm="granite"),
    _Rule(types=("phi3", "phi4"), markers=("<|tool|>",), vllm="phi4_mini_json"),
)

_REASONING_RULES = (
    _Rule(types=("gpt_oss",), vllm="openai_gptoss", sglang="gpt-oss"),
    _Rule(types=("afmoe",), name="thinking", vllm="deepseek_r1"),
    _Rule(types=_LING3, vllm="ling3", sglang="ling3"),
    _Rule(types=("cohere2",), name="reasoning", vllm="cohere_command3"),
    _Rule(types=("cohere2_moe",), vllm="cohere_command4", sglang="cohere_command4"),
    _Rule(types=("deepseek_v32",), vllm="deepseek_v3", sglang="deepseek-v3"),
    _Rule(types=("deepseek_v4",), vllm="deepseek_v4", sglang="deepseek-v4"),
    _Rule(types=("deepseek_v41",), vllm="deepseek_v41", sglang="deepseek-v41"),
    _Rule(types=("ernie4_5_moe",), name="thinking", vllm="ernie45"),
    _Rule(types=_GEMMA4, vllm="gemma4", sglang="gemma4"),
    _Rule(types=_GLM, vllm="glm45", sglang="glm45"),
    _Rule(
        types=("granite",), name=r"granite-4\.[2-9]", vllm="granite_thinking_parser", sglang="granite_thinking_parser"
    ),
    _Rule(types=("granite",), name=r"granite-3\.2", vllm="granite"),
    _Rule(types=("hunyuan_v1_moe",), vllm="hunyuan_a13b"),
    _Rule(types=("hy_v3",), vllm="hy_v3", sglang="hunyuan"),
    _Rule(types=("hy_v4",), vllm="hy_v4"),
    _Rule(types=("inkling",), vllm="inkling", sglang="inkling"),
    _Rule(types=("interns1",), vllm="deepseek_r1", sglang="interns1"),
    _Rule(types=("interns2_preview",), vllm="qwen3", sglang="qwen3"),
    _Rule(types=("kimi_k25",), vllm="kimi_k2", sglang="kimi_k2"),
    _Rule(types=("kimi_k3",), vllm="kimi_k3", sglang="kimi_k3"),
    _Rule(types=("kimi_k2",), markers=("<think>",), vllm="kimi_k2", sglang="kimi_k2"),
    _Rule(types=("laguna",), vllm="poolside_v1", sglang="poolside_v1"),
    _Rule(types=("lfm2", "lfm2_moe"), markers=("<think>",), vllm="qwen3", sglang="qwen3"),
    _Rule(types=("mellum2",), name="thinking", vllm="qwen3", sglang="qwen3"),
    _Rule(types=("mimo_v2",), vllm="mimo", sglang="mimo"),
    _Rule(types=("minimax_m2",), vllm="minimax_m2", sglang="minimax"),
    _Rule(types=_MINIMAX_M3, vllm="minimax_m3", sglang="minimax-m3"),
    _Rule(types=("minicpmv4_6", "minicpmv4_7"), markers=("<think>", "<function="), vllm="minicpmv"),
    _Rule(types=_MUSE_GLIMMER, vllm="muse_glimmer", sglang="muse"),
    _Rule(types=("nemotron_h",), markers=("<think>", "<function="), vllm="nemotron_v3", sglang="nemotron_3"),
    _Rule(types=("olmo3",), name="think", vllm="olmo3"),
    _Rule(types=("plamo3",), vllm="plamo3"),
    _Rule(types=("qwen2",), name="qwq", vllm="deepseek_r1", sglang="deepseek-r1"),
    _Rule(types=("qwen3_vl", "qwen3_vl_moe"), name="holo2", vllm="holo2", sglang="qwen3"),
    _Rule(types=_QWEN3, markers=("<think>",), vllm="qwen3", sglang="qwen3", trtllm="qwen3"),
    _Rule(types=("seed_oss",), vllm="seed_oss"),
    _Rule(types=_STEP3, vllm="step3", sglang="step3"),
    _Rule(types=_STEP3_5, vllm="step3p5", sglang="step3p5"),
    # V3.1 and later think on demand (`thinking`); R1 and models distilled from it always do.
    _Rule(types=_DEEPSEEK, markers=("</think>", "thinking"), vllm="deepseek_v3", sglang="deepseek-v3"),
    _Rule(types=_DISTILLED, name="deepseek-r1", vllm="deepseek_r1", sglang="deepseek-r1", trtllm="deepseek-r1"),
    _Rule(
        types=_DISTILLED,
        markers=("</think>", "<｜Assistant｜>"),  # noqa: RUF001 - DeepSeek's own bars
        vllm="deepseek_r1",
        sglang="deepseek-r1",
        trtllm="deepseek-r1",
    ),
    _Rule(types=_MISTRAL, markers=("[THINK]",), vllm="mistral", sglang="mistral"),
    _Rule(markers=("<ifm|think>",), vllm="k2_horizon", sglang="k2_horizon"),
    _Rule(markers=("<|iquest_assistant|>",), sglang="iquest_q1"),
    _Rule(markers=("◁think▷",), sglang="kimi"),
)
_Choice: TypeAlias = tuple[str | None, str]  # a parser, and what decided
NOTHING: _Choice = (None, "no rule matches the model")
_OWN_FORMAT = _Rule(vllm="hf", sglang="response_template")
_ALL_TOOL_RULES = (*_TOOL_TYPES, _OWN_FORMAT, *_TOOL_CALLS, *_TOOL_MARKERS)


def parsers_for(engine: EngineName, model: ModelFacts) -> Parsers:
    """The parsers of `engine` for a model; none for an unknown type and template."""
    own = (_OWN_FORMAT,) if model.response_template and _OWN_FORMAT.name_for(engine) else ()
    by_text = ("rendered template", _TOOL_CALLS) if model.call else ("marks in the template", _TOOL_MARKERS)
    tool = (
        _catalogued(engine, model, "tool")
        or _first(engine, model, "model type", _TOOL_TYPES)
        or _same_format(engine, model, "tool", (_TOOL_CALLS, _TOOL_TYPES))
        or _first(engine, model, "response_template", own)
        or _first(engine, model, *by_text)
    )
    reasoning = (
        _catalogued(engine, model, "reasoning")
        or _first(engine, model, "model type and template", _REASONING_RULES)
        or _same_format(engine, model, "reasoning", (_REASONING_RULES,))
        or _first(engine, model, "response_template", own)
    )
    (tool_name, tool_origin), (reasoning_name, reasoning_origin) = tool or NOTHING, reasoning or NOTHING
    return Parsers(tool=tool_name, reasoning=reasoning_name, tool_origin=tool_origin, reasoning_origin=reasoning_origin)


def _first(engine: EngineName, model: ModelFacts, origin: str, rules: tuple[_Rule, ...]) -> _Choice | None:
    """The parser of the first rule that matches."""
    return next(((rule.name_for(engine), origin) for rule in rules if rule.matches(model)), None)


def _catalogued(engine: EngineName, model: ModelFacts, kind: ParserKind) -> _Choice | None:
    return next(((one.name, one.origin) for one in model.known if (one.engine, one.kind) == (engine, kind)), None)


def _same_format(
    engine: EngineName, model: ModelFacts, kind: ParserKind, tables: tuple[tuple[_Rule, ...], ...]
) -> _Choice | None:
    """By the first table in which all rules with another engine's parser have the same parser of this one."""
    for one in model.known:
        if one.kind != kind or one.name is None:
            continue
        for rules in tables:
            names = {rule.name_for(engine) for rule in rules if rule.name_for(one.engine) == one.name}
            if len(names) == 1:
                return names.pop(), f"{one.origin}, as {one.name} of {one.engine}"
    return None


def known_names(engine: EngineName) -> Parsers:
    """All names in the tables for `engine`, comma-separated: for the test against the engine's own list."""
    return Parsers(
        tool=",".join(sorted({name for rule in _ALL_TOOL_RULES if (name := rule.name_for(engine))})),
        reasoning=",".join(
            sorted({name for rule in (*_REASONING_RULES, _OWN_FORMAT) if (name := rule.name_for(engine))})
        ),
    )

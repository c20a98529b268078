"""The tool and reasoning parsers for a model, by its type and its chat template.

There are two tables of rules. The first rule that matches decides: markers of one family come before general ones,
since the same `model_type` ships with different templates. No match means no parser: a wrong one loses text.
"""

from dataclasses import dataclass

from berth.plan import EngineName


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsers:
    """The names of the parsers in one engine; None: no parser."""

    tool: str | None = None
    reasoning: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    """Matches when the model type is listed (or none is) and the template contains every marker."""

    types: tuple[str, ...] = ()
    markers: tuple[str, ...] = ()
    vllm: str | None = None
    sglang: str | None = None
    trtllm: str | None = None

    def matches(self, model_type: str, template: str) -> bool:
        return (not self.types or model_type in self.types) and all(marker in template for marker in self.markers)

    def name_for(self, engine: EngineName) -> str | None:
        names = {EngineName.VLLM: self.vllm, EngineName.SGLANG: self.sglang, EngineName.TRTLLM: self.trtllm}
        return names.get(engine)


_DEEPSEEK = ("deepseek_v2", "deepseek_v3", "deepseek_v32")
_QWEN3 = ("qwen3", "qwen3_moe", "qwen3_next", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe")
_GLM = ("glm4_moe", "glm4_moe_lite", "glm4v_moe")
_KIMI = ("kimi_k2", "kimi_k25", "kimi_linear", "deepseek_v3")
_LLAMA4 = ("llama4", "llama4_text")
_MISTRAL = ("mistral", "mistral3", "mixtral", "ministral", "ministral3")

_TOOL_RULES = (
    _Rule(types=("gpt_oss",), vllm="openai", sglang="gpt-oss"),
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
    _Rule(types=_GLM, markers=("<arg_key>",), vllm="glm45", sglang="glm45"),
    _Rule(types=("seed_oss",), markers=("<seed:tool_call>",), vllm="seed_oss"),
    _Rule(types=("step3", "step3_vl"), vllm="step3", sglang="step3"),
    _Rule(types=_LLAMA4, vllm="llama4_pythonic", sglang="pythonic"),
    _Rule(types=("granitemoehybrid",), markers=("<tool_call>",), vllm="granite4"),
    _Rule(types=("gemma4", "gemma4_text"), markers=("tool_call",), vllm="gemma4", sglang="gemma4"),
    _Rule(markers=("<tool_call>", "<function="), vllm="qwen3_coder", sglang="qwen3_coder", trtllm="qwen3_coder"),
    _Rule(types=_MISTRAL, markers=("[TOOL_CALLS]",), vllm="mistral", sglang="mistral"),
    _Rule(markers=("<tool_call>", "arguments"), vllm="hermes", sglang="qwen25", trtllm="qwen3"),
    _Rule(markers=("<|python_tag|>",), vllm="llama3_json", sglang="llama3"),
    _Rule(types=("llama",), markers=('{"name": function name, "parameters":',), vllm="llama3_json", sglang="llama3"),
    _Rule(types=("granite",), markers=("<|tool_call|>",), vllm="granite"),
    _Rule(types=("phi3", "phi4"), markers=("<|tool|>",), vllm="phi4_mini_json"),
)

_REASONING_RULES = (
    _Rule(types=("gpt_oss",), vllm="openai_gptoss", sglang="gpt-oss"),
    _Rule(types=_QWEN3, markers=("<think>",), vllm="qwen3", sglang="qwen3", trtllm="qwen3"),
    _Rule(types=_GLM, markers=("<think>",), vllm="glm45", sglang="glm45"),
    _Rule(types=("kimi_k2", "kimi_k25"), markers=("<think>",), vllm="kimi_k2", sglang="kimi_k2"),
    _Rule(types=("minimax_m2",), markers=("<think>",), vllm="minimax_m2", sglang="minimax"),
    _Rule(types=("seed_oss",), markers=("<seed:think>",), vllm="seed_oss"),
    _Rule(types=("step3", "step3_vl"), markers=("<think>",), vllm="step3", sglang="step3"),
    # V3.1 and later think on demand (`thinking`); R1 and models distilled from it always do.
    _Rule(types=_DEEPSEEK, markers=("</think>", "thinking"), vllm="deepseek_v3", sglang="deepseek-v3"),
    _Rule(
        types=(*_DEEPSEEK, "llama", "qwen2"),
        markers=("</think>", "<｜Assistant｜>"),  # noqa: RUF001 - DeepSeek's own bars
        vllm="deepseek_r1",
        sglang="deepseek-r1",
        trtllm="deepseek-r1",
    ),
    _Rule(types=_MISTRAL, markers=("[THINK]",), vllm="mistral", sglang="mistral"),
)


def parsers_for(engine: EngineName, *, model_type: str | None, chat_template: str | None) -> Parsers:
    """The parsers of `engine` for a model; none for an unknown type and template."""
    return Parsers(
        tool=_first(_TOOL_RULES, engine, model_type or "", chat_template or ""),
        reasoning=_first(_REASONING_RULES, engine, model_type or "", chat_template or ""),
    )


def known_names(engine: EngineName) -> Parsers:
    """All names in the tables for `engine`, comma-separated: for the test against the engine's own list."""
    return Parsers(
        tool=",".join(sorted({name for rule in _TOOL_RULES if (name := rule.name_for(engine))})),
        reasoning=",".join(sorted({name for rule in _REASONING_RULES if (name := rule.name_for(engine))})),
    )


def _first(rules: tuple[_Rule, ...], engine: EngineName, model_type: str, template: str) -> str | None:
    """The first match decides, even if this engine has no parser for it."""
    for rule in rules:
        if rule.matches(model_type, template):
            return rule.name_for(engine)
    return None

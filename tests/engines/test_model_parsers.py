import pytest

from berth.engines.model_parsers import Parsers, parsers_for
from berth.plan import EngineName

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
    "DeepSeek V3.2": ("deepseek_v32", "<｜DSML｜invoke>", "deepseek_v32", None),  # noqa: RUF001 - as the models spell it
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
    found = parsers_for(EngineName.VLLM, model_type=model_type, chat_template=template)

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
    found = parsers_for(engine, model_type="qwen3", chat_template=HERMES + "<think>")

    assert found == Parsers(tool=tool, reasoning=reasoning)


def test_no_parser_for_an_unsupported_format() -> None:
    found = parsers_for(EngineName.TRTLLM, model_type="glm4_moe", chat_template="<tool_call><arg_key>arguments")

    assert found.tool is None

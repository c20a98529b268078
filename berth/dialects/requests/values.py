"""Values that OpenAI's API accepts and engines reject or read in another way, in a form that all engines read alike.

    null, no tools, `tool_choice` without tools, `suffix` "", stop strings ""   left out
    `best_of` that selects nothing                                              left out
    `seed` below 0 or beyond 63 bits                                            another seed, always the same
    `top_p` 0, and `n` above 1 with `temperature` 0                             `top_k` 1, or a tiny `top_p`
    `temperature` above 2                                                       another engine than vLLM

Checked against the real vLLM 0.32, the recorded responses of SGLang 0.5.23, and the sources of TensorRT-LLM 1.2.1.
"""

from typing import Final

from berth.canonical import Json, Operation
from berth.dialects.base import UnsupportedError

# A body with none of these fields, and without null, has only plain values.
CHECKED: Final = frozenset({"best_of", "seed", "stop", "stream_options", "suffix", "tool_choice", "tools"})
NOT_IN_VLLM: Final = frozenset({"n", "stop", "temperature", "top_p"})  # fields with values that it rejects
NOT_IN_SGLANG: Final = frozenset(
    {"continue_final_message", "include_stop_str_in_output", "max_tokens", "reasoning_effort", "top_p"}
)
_MOST_SEEDS: Final = 1 << 63
_TINY: Final = 1e-6  # of `top_p`: leaves the most probable token only
# Efforts of OpenAI's API that not all engines know.
NEAREST_EFFORTS: Final = {"minimal": "low", "xhigh": "high", "max": "high"}
_NAMES: Final = ("suffix", "stop", "tools")
_VLLM_HOTTEST: Final = 2.0
_VLLM_STOPS: Final = 4


def plain_values(body: Json) -> Json:
    """The body in a form that is the same for all engines."""
    plain = {name: value for name, value in body.items() if value is not None}
    stop = plain.get("stop")
    if isinstance(stop, list):
        plain["stop"] = [text for text in stop if text]
    for name in _NAMES:
        if name in plain and not plain[name]:
            del plain[name]
    if "tools" not in plain:
        plain.pop("tool_choice", None)
    if not plain.get("stream"):
        plain.pop("stream_options", None)
    seed = plain.get("seed")
    if isinstance(seed, int) and not 0 <= seed < _MOST_SEEDS:  # vLLM takes -1 for no seed
        plain["seed"] = seed % _MOST_SEEDS
    if "best_of" in plain and plain["best_of"] == plain.get("n", 1):
        del plain["best_of"]
    return plain


def vllm_sampling(body: Json) -> None:
    """UnsupportedError for values that vLLM rejects. Changes the body."""
    stop = body.get("stop")
    if isinstance(stop, list) and len(stop) > _VLLM_STOPS:
        raise UnsupportedError(f"vLLM accepts up to {_VLLM_STOPS} stop strings, not {len(stop)}", param="stop")
    if body.get("temperature", 0) > _VLLM_HOTTEST:
        raise UnsupportedError(
            f"vLLM accepts a 'temperature' of up to {_VLLM_HOTTEST:g}, not {body['temperature']}", param="temperature"
        )
    if body.get("top_p") == 0:
        del body["top_p"]
        body["top_k"] = 1
    if body.get("n", 1) > 1 and body.get("temperature") == 0 and not body.get("use_beam_search"):
        body |= {"temperature": 1.0, "top_k": 1}


def sglang_values(body: Json, operation: Operation) -> None:
    """UnsupportedError for a completion of no tokens. Changes the body."""
    if body.pop("include_stop_str_in_output", None):
        body["no_stop_trim"] = True
    if body.get("continue_final_message"):
        body.pop("add_generation_prompt", None)
    if body.get("top_p") == 0:
        del body["top_p"]
        body["top_k"] = 1
    effort = body.get("reasoning_effort")
    if isinstance(effort, str) and effort in NEAREST_EFFORTS:
        body["reasoning_effort"] = NEAREST_EFFORTS[effort]
    _need_tokens(body, operation, "SGLang")


def trtllm_sampling(body: Json, operation: Operation) -> None:
    """TensorRT-LLM rejects several choices if it sees that all would be the same. The same error. Changes the body."""
    greedy = body.get("temperature") == 0 or body.get("top_p") == 0 or body.get("top_k") == 1
    if greedy and body.get("n", 1) > 1 and not body.get("use_beam_search"):
        body.pop("top_k", None)
        body |= {"temperature": 1.0, "top_p": _TINY}
    _need_tokens(body, operation, "TensorRT-LLM")


def _need_tokens(body: Json, operation: Operation, engine: str) -> None:
    if operation is Operation.COMPLETION and body.get("max_tokens") == 0:
        raise UnsupportedError(f"{engine} does not support 'max_tokens': 0", param="max_tokens")

"""The choices of a chat or completion with their reasoning, log probabilities and usage: type checks, and the reading
of a non-streaming response.
"""

from typing import Any, Final

from berth import json_text
from berth.canonical import COMPLETION, EngineResponse, Failure, InferenceRequest, Json, Usage
from berth.dialects.failures import engine_failure, unfit_failure
from berth.dialects.tool_calls import problem_of, with_own_ids

# Reasoning has two names: engines read one, clients use either.
_REASONING: Final = ("reasoning", "reasoning_content")
MOST_TOKENS: Final = 100_000_000  # of a request: 2048 texts of 32,768 tokens are 67 million
_FORCED_BY_NONE: Final = (None, "none", "auto")  # values of `tool_choice` without a forced call
_CHOICE_TEXTS: Final = ("finish_reason", "text")
_MESSAGE_TEXTS: Final = ("role", "content", *_REASONING, "refusal")


def read_choices(request: InferenceRequest, model: str, document: Json, body: bytes) -> EngineResponse | Failure:
    choices = document.get("choices")
    if not choices:
        return engine_failure("the engine's response has no choices")
    changed = document.get("model") != model
    document["model"] = model
    # In OpenAI's API, `metadata` is the client's own text; SGLang puts versions of weights there.
    metadata = document.get("metadata")
    if isinstance(metadata, dict) and any(not isinstance(value, str) for value in metadata.values()):
        del document["metadata"]
        changed = True
    choice: Json
    for choice in choices:
        if choice.get("finish_reason") == "abort":
            return engine_failure("the engine aborted the request")
        check_types(choice)
        if request.operation is COMPLETION:
            choice["text"]
            continue
        message: Json = choice["message"]
        changed |= add_both_names(message)
        calls = message.get("tool_calls")
        if calls == []:  # some clients take the key alone for a call
            del message["tool_calls"]
            changed = True
        elif calls:
            changed |= _correct_calls(request.body, choice, calls, str(document.get("id")))
            if problem := _forced_problem(request.body, choice, calls):
                return unfit_failure(problem)
    usage = read_usage(document.get("usage") or {})
    if usage.implausible:
        document["usage"] = plausible(document["usage"])
    return EngineResponse(body=json_text.dumps(document) if changed or usage.implausible else body, usage=usage)


def _correct_calls(body: Json, choice: Json, calls: list[Json], response_id: str) -> bool:
    """True: something was changed."""
    changed = with_own_ids(calls, response_id)
    if choice.get("finish_reason") == "stop":
        choice["finish_reason"] = "tool_calls"
        changed = True
    if body.get("parallel_tool_calls") is False and len(calls) > 1:  # not all engines keep to it
        del calls[1:]
        changed = True
    return changed


def _forced_problem(body: Json, choice: Json, calls: list[Json]) -> str | None:
    """What is wrong with the arguments of forced calls; None where nothing is, or none was forced."""
    if body.get("tool_choice") in _FORCED_BY_NONE or choice.get("finish_reason") != "tool_calls":
        return None
    functions = [call.get("function") or {} for call in calls]
    return problem_of((function.get("name"), function.get("arguments")) for function in functions)


def expected_choices(request: InferenceRequest) -> int:
    """How many choices a response has: n for each prompt."""
    n = request.body.get("n") or 1
    prompt = request.body.get("prompt")
    many = isinstance(prompt, list) and prompt and not isinstance(prompt[0], int)
    return n * len(prompt) if many and prompt else n


def rename_reasoning(body: Json, name: str) -> None:
    """Puts the reasoning of earlier turns under the name that the engine reads; "" removes it."""
    messages = body.get("messages") or []
    for message in messages:
        if "reasoning" in message or "reasoning_content" in message:
            break
    else:
        return
    renamed = []
    for message in messages:
        text = message.get("reasoning") or message.get("reasoning_content")
        rest = {key: value for key, value in message.items() if key not in _REASONING}
        renamed.append({**rest, name: text} if text and name else rest)
    body["messages"] = renamed


def add_both_names(message: Json) -> bool:
    """Reasoning of a response under both names. True: something was changed."""
    text = message.get("reasoning") or message.get("reasoning_content")
    if not text or message.get("reasoning") == message.get("reasoning_content"):
        return False
    message["reasoning"] = message["reasoning_content"] = text
    return True


def read_usage(usage: Json, prompt: str = "prompt_tokens", completion: str = "completion_tokens") -> Usage:
    """0 for what is missing, null, or not a number of tokens. `prompt`, `completion`: the names of the counts."""
    details = usage.get("prompt_tokens_details")
    of_prompt, of_completion = usage.get(prompt), usage.get(completion)
    of_cache = details.get("cached_tokens") if isinstance(details, dict) else None
    prompt_tokens, completion_tokens = token_count(of_prompt), token_count(of_completion)
    cached_tokens = token_count(of_cache)
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        cached_tokens=cached_tokens,
        implausible=(of_prompt is not None and of_prompt != prompt_tokens)
        or (of_completion is not None and of_completion != completion_tokens)
        or (of_cache is not None and of_cache != cached_tokens),
    )


def token_count(value: Any) -> int:
    return value if type(value) is int and 0 <= value <= MOST_TOKENS else 0


def plausible(usage: Json) -> Json:
    """`usage` with 0 for each count that is not a number of tokens."""
    corrected: Json = {}
    for name, value in usage.items():
        if name.endswith("_tokens") and value is not None:
            corrected[name] = token_count(value)
        else:
            corrected[name] = plausible(value) if isinstance(value, dict) else value
    return corrected


def check_types(choice: Json) -> None:
    """TypeError where a choice of a response or a frame is not of OpenAI's types: no client API could return it."""
    message: Json = choice.get("delta") or choice.get("message") or {}
    fields: Json
    for fields, names in ((choice, _CHOICE_TEXTS), (message, _MESSAGE_TEXTS)):
        for name in names:
            if (text := fields.get(name)) is not None and not isinstance(text, str):
                raise TypeError(f"expected a string, got {text!r}")
    for call in message.get("tool_calls") or ():
        function = call.get("function") or {}
        for text in (call.get("id"), function.get("name"), function.get("arguments")):
            if text is not None and not isinstance(text, str):
                raise TypeError(f"expected a string, got {text!r}")
    if (logprobs := choice.get("logprobs")) is not None:
        check_logprobs(logprobs)


def check_logprobs(logprobs: Any) -> None:
    """TypeError, KeyError or AttributeError where the `logprobs` of a choice are not of OpenAI's types. A chat has a
    list of tokens, each with its alternatives; a completion has parallel lists. null is allowed for what an engine may
    leave out: the alternatives (TensorRT-LLM), or what the first token of an echoed prompt cannot have.
    """
    if logprobs is None:
        return
    for name in ("content", "refusal"):
        for token in _list(logprobs.get(name)):
            for alternative in (token, *_list(token.get("top_logprobs"))):
                _check_text(alternative["token"])
                _check_number(alternative["logprob"])
                for byte in _list(alternative.get("bytes")):
                    _check_integer(byte)
    for text in _list(logprobs.get("tokens")):
        _check_text(text)
    for offset in _list(logprobs.get("text_offset")):
        _check_integer(offset)
    numbers = [number for number in _list(logprobs.get("token_logprobs")) if number is not None]
    for alternatives in _list(logprobs.get("top_logprobs")):
        numbers += ({} if alternatives is None else alternatives).values()
    for number in numbers:
        _check_number(number)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list | None):
        raise TypeError(f"expected a list, got {value!r}")
    return value or []


def _check_text(value: Any) -> None:
    if not isinstance(value, str):
        raise TypeError(f"expected a string, got {value!r}")


def _check_integer(value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"expected an integer, got {value!r}")


def _check_number(value: Any) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"expected a number, got {value!r}")

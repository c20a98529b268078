"""Requests of every client API with one list in them of any length, and the smallest valid request of each path.

`LISTS` has every list that an API reads; `test_doubling.py` compares it with the rules of the APIs, so that a new one
is not forgotten.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final

from berth.canonical import Json

Item = Callable[[int], Any]

PNG: Final = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
_SCHEMA: Final[Json] = {"type": "object", "properties": {"city": {"type": "string"}}}
_USER: Final[Json] = {"role": "user", "content": "Hello"}


def function(i: int) -> Json:
    return {"type": "function", "function": {"name": f"tool_{i}", "description": "d", "parameters": _SCHEMA}}


def call(i: int) -> Json:
    return {"id": f"c{i}", "type": "function", "function": {"name": f"tool_{i}", "arguments": '{"city": "Paris"}'}}


def _text_part(i: int) -> Json:
    return {"type": "text", "text": f"part {i}"}


def _chat(i: int) -> Json:
    return {"role": "user" if i % 2 else "assistant", "content": f"text {i}"}


def _turns(i: int) -> Json:
    """A call and its result, in turn."""
    if i % 2:
        return {"role": "tool", "tool_call_id": f"c{i - 1}", "content": "sunny"}
    return {"role": "assistant", "content": None, "reasoning": "hm", "tool_calls": [call(i)]}


_CHAT: Final[Json] = {"model": "m", "messages": [_USER]}
_COMPLETION: Final[Json] = {"model": "m", "prompt": "Hello"}
_EMBEDDING: Final[Json] = {"model": "m", "input": "Hello"}
_RESPONSES: Final[Json] = {"model": "m", "input": "Hello", "store": False}
_ANTHROPIC: Final[Json] = {"model": "m", "max_tokens": 9, "messages": [_USER]}
_COUNT: Final[Json] = {"model": "m", "messages": [_USER]}
_OLLAMA: Final[Json] = {"model": "m", "messages": [_USER]}
_RERANK: Final[Json] = {"model": "m", "query": "q", "documents": ["a"]}
_PAIRS: Final = (
    ("text_1, text_2", "text_1", "text_2"),
    ("queries, documents", "queries", "documents"),
    ("queries, items", "queries", "items"),
    ("data_1, data_2", "data_1", "data_2"),
)

SMALLEST: Final[Mapping[str, Json]] = {
    "/v1/chat/completions": _CHAT,
    "/v1/completions": _COMPLETION,
    "/v1/embeddings": _EMBEDDING,
    "/v1/audio/speech": {"model": "m", "input": "Hello", "voice": "v"},
    "/v1/images/generations": {"model": "m", "prompt": "Hello"},
    "/v1/moderations": {"model": "m", "input": "Hello"},
    "/v1/responses": _RESPONSES,
    "/v1/responses/input_tokens": _RESPONSES,
    "/v1/messages": _ANTHROPIC,
    "/v1/messages/count_tokens": _COUNT,
    "/api/chat": _OLLAMA,
    "/api/generate": {"model": "m", "prompt": "Hello"},
    "/api/embed": _EMBEDDING,
    "/api/embeddings": {"model": "m", "prompt": "Hello"},
    "/v1/rerank": _RERANK,
    "/v2/rerank": _RERANK,
    "/rerank": {"model": "m", "query": "q", "texts": ["a"]},
    "/v1/score": {"model": "m", "text_1": "a", "text_2": ["a"]},
    "/v1/classify": {"model": "m", "input": ["a"]},
    "/v1/tokenize": {"model": "m", "prompt": "Hello"},
    "/v1/detokenize": {"model": "m", "tokens": [1]},
    "/generate": {"model": "m", "inputs": "Hello"},
    "/generate_stream": {"model": "m", "inputs": "Hello"},
    "/": {"model": "m", "inputs": "Hello"},
}


def _anthropic_tool(i: int) -> Json:
    return {"name": f"tool_{i}", "description": "d", "input_schema": _SCHEMA}


def _anthropic_turns(i: int) -> Json:
    if i % 2:
        return {"role": "user", "content": [{"type": "tool_result", "tool_use_id": f"c{i - 1}", "content": "sunny"}]}
    blocks = [{"type": "thinking", "thinking": "hm", "signature": "s"}, _tool_use(i)]
    return {"role": "assistant", "content": blocks}


def _tool_use(i: int) -> Json:
    return {"type": "tool_use", "id": f"c{i}", "name": f"tool_{i}", "input": {"city": "Paris"}}


def _responses_turns(i: int) -> Json:
    kinds: tuple[Json, ...] = (
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "t"}]},
        {"type": "function_call", "call_id": f"c{i}", "name": "f", "arguments": "{}"},
        {"type": "custom_tool_call", "call_id": f"c{i}", "name": "g", "input": "text"},
        {"type": "function_call_output", "call_id": f"c{i - 2}", "output": "sunny"},
    )
    return kinds[i % len(kinds)]


def _ollama_call(i: int) -> Json:
    return {"function": {"name": f"tool_{i}", "arguments": {"city": "Paris"}}}


class _Many:
    """Makes the lists of one length."""

    def __init__(self, length: int) -> None:
        self._length = length
        self.texts = self(lambda i: f"text {i}")
        self.ids = self(lambda i: i % 1000)
        self.lists_of_ids = self(lambda i: [i % 9])
        self.fields = {f"field_{i}": i for i in range(length)}

    def __call__(self, item: Item) -> list[Any]:
        return [item(i) for i in range(self._length)]


def _openai(many: _Many) -> dict[str, Json]:
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    assistant = {"role": "assistant", "tool_calls": many(call)}
    return {
        "messages": {"messages": many(_chat)},
        "calls and results": {"messages": [_USER, *many(_turns)]},
        "parts": {"messages": [{"role": "user", "content": many(_text_part)}]},
        "images": {"messages": [{"role": "user", "content": many(lambda _: image)}]},
        "tools": {"tools": many(function)},
        "forced tools": {"tools": many(function), "tool_choice": "required"},
        "tool calls": {"messages": [_USER, assistant, _USER]},
        "stop": {"stop": many.texts},
        "lists in a field with a long name": {f"image_{'x' * 20 * len(many.texts)}": many(lambda _: PNG)},
        "lists of unknown fields": {"other": many(lambda i: {"a": [i]})},
        "unknown fields": many.fields,
        "logit_bias": {"logit_bias": {str(i): 1 for i in range(len(many.texts))}},
        "choices": {"structured_outputs": {"choice": many.texts}},
        "chat_template_kwargs": {"chat_template_kwargs": {"a": many(lambda i: {"b": i})}},
    }


def _responses(many: _Many) -> dict[str, Json]:
    choice: Json = {"type": "allowed_tools", "mode": "auto"}
    flat = many(lambda i: {"type": "function", "name": f"tool_{i}", "parameters": _SCHEMA})
    spaces = many(lambda i: {"type": "namespace", "name": f"s{i}", "tools": [{"type": "function", "name": "t"}]})
    custom = many(lambda i: {"type": "custom", "name": f"t{i}", "format": {"type": "grammar", "definition": "x"}})
    return {
        "items": {"input": [_USER, *many(_responses_turns)]},
        "system items": {"input": [*many(lambda i: {"role": "system", "content": f"rule {i}"}), _USER]},
        "reasoning items": {"input": [_USER, *many(lambda _: _responses_turns(0)), _responses_turns(1)]},
        "calls": {"input": [_USER, *many(lambda _: _responses_turns(2))]},
        "parts": {"input": [{"role": "user", "content": many(lambda _: {"type": "input_text", "text": "t"})}]},
        "items without effect": {"input": [_USER, *many(lambda i: {"type": "web_search_call", "id": f"w{i}"})]},
        "tools": {"tools": flat},
        "namespaces": {"tools": spaces},
        "tools of a namespace": {"tools": [{"type": "namespace", "name": "s", "tools": flat}]},
        "custom tools": {"tools": custom},
        "server tools": {"tools": [*flat[:1], *many(lambda _: {"type": "web_search"})]},
        "allowed tools": {"tools": flat, "tool_choice": {**choice, "tools": flat}},
        "allowed namespaces": {"tools": spaces, "tool_choice": {**choice, "tools": spaces}},
        "include": {"include": many.texts},
        "stop": {"stop": many.texts},
        "metadata": {"metadata": dict.fromkeys(many.fields, "v")},
        "unknown fields": many.fields,
    }


def _anthropic(many: _Many) -> dict[str, Json]:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    document = {"type": "document", "source": {"type": "content", "content": many(_text_part)}}
    found = {"type": "search_result", "title": "t", "source": "s", "content": many(_text_part)}
    results = many(lambda i: {"type": "tool_result", "tool_use_id": f"c{i}", "content": [_text_part(i)]})
    names = many(lambda i: {"type": "tool_reference", "tool_name": f"tool_{i}"})
    calls = [_USER, {"role": "assistant", "content": many(_tool_use)}, _USER]
    blocks = many(lambda i: {"type": "redacted_thinking", "data": f"d{i}"})
    hosted = many(lambda i: {"type": "web_search_20250305", "name": f"w{i}"})
    added = many(lambda i: {"type": "tool_addition", "tool": {"definition": _anthropic_tool(i)}})
    summary = {"role": "assistant", "content": [{"type": "compaction", "content": "s"}]}
    return {
        "messages": {"messages": [_USER, *many(_anthropic_turns), _USER]},
        "messages of one role": {"messages": many(lambda _: _USER)},
        "system messages": {"messages": [_USER, *many(lambda i: {"role": "system", "content": f"rule {i}"})]},
        "system": {"system": many(_text_part)},
        "blocks": {"messages": [{"role": "user", "content": many(_text_part)}]},
        "images": {"messages": [{"role": "user", "content": many(lambda _: image)}]},
        "content of a document": {"messages": [{"role": "user", "content": [document]}]},
        "content of a search result": {"messages": [{"role": "user", "content": [found]}]},
        "tool calls": {"messages": calls},
        "tool results": {"messages": [{"role": "user", "content": results}]},
        "blocks without effect": {"messages": [_USER, {"role": "assistant", "content": blocks}, _USER]},
        "tools": {"tools": many(_anthropic_tool)},
        "deferred tools": {
            "messages": [*calls, {"role": "user", "content": [{**results[0], "content": names}]}],
            "tools": many(lambda i: {**_anthropic_tool(i), "defer_loading": True}),
        },
        "server tools": {"tools": [_anthropic_tool(0), *hosted]},
        "added tools": {"messages": [{"role": "user", "content": [_text_part(0), *added]}]},
        "compactions": {"messages": [*many(lambda _: summary), _USER]},
        "unknown fields": many.fields,
    }


def _ollama(many: _Many) -> dict[str, Json]:
    results: list[Json] = many(lambda _: {"role": "tool", "content": "sunny"})
    named = [{**result, "tool_name": f"tool_{i}"} for i, result in reversed([*enumerate(results)])]
    calls = {"role": "assistant", "content": "", "tool_calls": many(_ollama_call)}
    return {
        "messages": {"messages": many(_chat)},
        "results in order": {"messages": [_USER, calls, *results]},
        "results by name": {"messages": [_USER, calls, *named]},
        "results by a strange name": {"messages": [_USER, calls, *({**result, "name": "x"} for result in results)]},
        "images": {"messages": [{**_USER, "images": many(lambda _: PNG)}]},
        "tools": {"tools": many(function)},
        "options": {"options": many.fields},
        "stop": {"options": {"stop": many.texts}},
    }


def _inputs(many: _Many) -> dict[str, list[Any]]:
    return {"texts": many.texts, "ids": many.ids, "lists of ids": many.lists_of_ids}


def _tokenize(many: _Many) -> dict[str, Json]:
    chat: Json = {"prompt": None, "messages": [_USER]}
    return {"messages": {**chat, "messages": many(_chat)}, "tools": {**chat, "tools": many(function)}}


def _score(many: _Many) -> dict[str, Json]:
    nothing = {"text_1": None, "text_2": None}
    return {name: {**nothing, one: many.texts, two: many.texts} for name, one, two in _PAIRS}


_CASES: Final[Mapping[str, Callable[[_Many], dict[str, Json]]]] = {
    "/v1/chat/completions": _openai,
    "/v1/completions": lambda many: {
        **{name: {"prompt": values} for name, values in _inputs(many).items()},
        "stop": {"stop": many.texts},
    },
    "/v1/embeddings": lambda many: {name: {"input": values} for name, values in _inputs(many).items()},
    "/v1/moderations": lambda many: {"input": {"input": many.texts}},
    "/v1/responses": _responses,
    "/v1/messages": lambda many: {**_anthropic(many), "stop_sequences": {"stop_sequences": many.texts}},
    "/v1/messages/count_tokens": _anthropic,
    "/api/chat": _ollama,
    "/api/generate": lambda many: {"images": {"images": many(lambda _: PNG)}, "context": {"context": many.ids}},
    "/api/embed": lambda many: {"input": {"input": many.texts}},
    "/v1/rerank": lambda many: {"documents": {"documents": many.texts}, "objects": {"documents": many(_text_part)}},
    "/rerank": lambda many: {"texts": {"texts": many.texts}},
    "/v1/score": _score,
    "/v1/classify": lambda many: {"input": {"input": many.texts}},
    "/v1/tokenize": _tokenize,
    "/v1/detokenize": lambda many: {"tokens": {"tokens": many.ids}},
    "/generate": lambda many: {"stop": {"parameters": {"stop": many.texts}}, "unknown": {"parameters": many.fields}},
}
PATHS: Final = tuple(_CASES)


@lru_cache(maxsize=3)  # three lengths of one path: its cases are tried one after another
def lists(path: str, length: int) -> dict[str, Json]:
    """Requests with `length` items in one of their lists, each under a name."""
    return {name: SMALLEST[path] | fields for name, fields in _CASES[path](_Many(length)).items()}

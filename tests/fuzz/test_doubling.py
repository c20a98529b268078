"""Translation takes linear time: twice as many items take less than 2.5 times as long, whatever the list and the API.

The time is that of this thread's CPU, the best of several, and an excess is measured again: load does not matter. Of
two doublings one may take longer, since what no longer fits into a processor's cache does.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import pairwise
from typing import Any, Final

import orjson
import pytest

from berth.apis.anthropic import request as anthropic
from berth.apis.base import ApiFormat, Immediate
from berth.apis.ollama import chat as ollama_chat
from berth.apis.ollama import fields as ollama_fields
from berth.apis.ollama import generate as ollama_generate
from berth.apis.openai import chat, completions, embeddings
from berth.apis.openai.fields import Rule
from berth.apis.rerank import RULES, TEI_RULES
from berth.apis.responses import request as responses
from berth.apis.score import CLASSIFY, SCORE
from berth.apis.tgi.request import PARAMETERS
from berth.apis.tokenize import DETOKENIZE, TOKENIZE
from berth.canonical import EngineResponse, InferenceRequest, Operation
from berth.dialects.base import UnsupportedError
from berth.dialects.registry import DIALECTS
from berth.dialects.requests import references
from berth.dialects.requests.references import Fetching
from berth.plan import DialectName, Task
from berth.router.balancing import affinity
from berth.router.server.api_routes import formats
from tests.fakes.cpu_time import cpu_s
from tests.fakes.responses import Memory
from tests.fuzz.requests import PATHS, SMALLEST, lists
from tests.fuzz.responses import (
    chat_answers,
    chat_streams,
    choices_stream,
    completion_answers,
    completion_stream,
    other_answers,
)

LENGTHS: Final = (1000, 2000, 4000)
MOST: Final = 2.5
ROUNDS: Final = 4  # until one of them is fast enough
TASKS: Final = {
    Operation.EMBEDDING: Task.EMBED,
    Operation.RERANK: Task.RERANK,
    Operation.SCORE: Task.RERANK,
    Operation.CLASSIFY: Task.CLASSIFY,
}

Case = Callable[[], object]

pytestmark = pytest.mark.timeout(120)


def growth(cases: Sequence[Case]) -> float:
    """How many times as long a case takes as the one before it, which has half as many items, at best."""
    best = 1e9
    for turn in range(ROUNDS):
        # One run of the longest can only exaggerate, and then all are measured again.
        times = [cpu_s(case, runs=2 if turn or case is not cases[-1] else 1) for case in cases]
        best = min(best, *(later / before for before, later in pairwise(times)))
        if best < MOST:
            break
    return best


def grows(case: Callable[[Any], object], make: Callable[[int], Any]) -> float:
    return growth([partial(case, make(length)) for length in LENGTHS])


# requests


def send(api: ApiFormat, body: bytes) -> InferenceRequest:
    """All that the router does with a request before an engine gets it."""
    request = api.parse(body, {})
    assert not isinstance(request, Immediate)
    references.hosts_named(request, Fetching())
    affinity.session({}, request)
    task = TASKS.get(request.operation, Task.GENERATE)
    for dialect in DIALECTS.values():
        with suppress(UnsupportedError):
            dialect.request(request, "served", task=task, vocab_size=1000)
    return request


APIS: Final = formats(Memory())
REQUESTS: Final = [(path, name) for path in PATHS for name in lists(path, 1)]


@pytest.mark.parametrize(("path", "name"), REQUESTS, ids=[f"{path} {name}" for path, name in REQUESTS])
def test_request(path: str, name: str) -> None:
    assert grows(partial(send, APIS[path]), lambda length: orjson.dumps(lists(path, length)[name])) < MOST


# responses


def chat_request(path: str, **fields: Any) -> InferenceRequest:
    request = APIS[path].parse(orjson.dumps(SMALLEST[path] | fields), {})
    assert isinstance(request, InferenceRequest)
    return request


CHATS: Final = ("/v1/chat/completions", "/v1/messages", "/v1/responses", "/api/chat")


def receive(api: ApiFormat, request: InferenceRequest, document: bytes, *, without: DialectName | None = None) -> None:
    for dialect in DIALECTS.values():
        if dialect.name is without:
            continue
        response = dialect.answer(request, "m", 200, document)
        if isinstance(response, EngineResponse):
            api.response(request, response.body)
        else:
            assert response.code in (None, "unsupported_parameter")


@pytest.mark.parametrize("name", chat_answers(1))
@pytest.mark.parametrize("path", CHATS)
def test_whole_chat(path: str, name: str) -> None:
    request = chat_request(path)
    answer = partial(receive, APIS[path], request)
    assert grows(answer, lambda length: orjson.dumps(chat_answers(length)[name])) < MOST


@pytest.mark.parametrize("name", completion_answers(1))
@pytest.mark.parametrize("path", ["/v1/completions", "/generate"])
def test_whole_completion(path: str, name: str) -> None:
    request = chat_request(path, **({"parameters": {"details": True}} if path == "/generate" else {}))
    answer = partial(receive, APIS[path], request)
    assert grows(answer, lambda length: orjson.dumps(completion_answers(length)[name])) < MOST


@pytest.mark.parametrize("path", other_answers(1))
def test_other_response(path: str) -> None:
    def answer(length: int) -> tuple[InferenceRequest, bytes]:
        fields = {"documents": ["d"] * length} if path == "/v1/rerank" else {"texts": ["d"] * length}
        return chat_request(path, **(fields if "rerank" in path else {})), orjson.dumps(other_answers(length)[path])

    assert grows(lambda case: receive(APIS[path], *case), answer) < MOST


def test_tokens_of_tgi() -> None:
    def answer(length: int) -> tuple[InferenceRequest, bytes]:
        request = chat_request("/v1/tokenize", prompt=None, inputs="é" * length)
        return request, orjson.dumps({"count": length, "tokens": [1] * length, "token_strs": ["Ã©"] * length})

    # llama.cpp says it in other words
    without = DialectName.LLAMACPP
    assert grows(lambda case: receive(APIS["/v1/tokenize"], *case, without=without), answer) < MOST


# streams


def stream(api: ApiFormat, request: InferenceRequest, pieces: list[bytes]) -> None:
    """As it is forwarded, and recorded for a continuation. All dialects have the same decoder."""
    decoder, encoder = DIALECTS[DialectName.VLLM].stream(request, "m"), api.stream(request)
    decoder.keep()
    for piece in pieces:
        frames = decoder.feed(piece)
        assert decoder.failure is None
        if frames:
            encoder.feed(frames)
    decoder.transcript()


@pytest.mark.parametrize("name", chat_streams(1))
@pytest.mark.parametrize("path", CHATS)
def test_stream_of_a_chat(path: str, name: str) -> None:
    request = chat_request(path, stream=True)
    assert grows(partial(stream, APIS[path], request), lambda length: chat_streams(length)[name]) < MOST


@pytest.mark.parametrize("name", [name for name in chat_streams(1) if "call" in name])
def test_stream_with_one_call_at_a_time(name: str) -> None:
    request = chat_request("/v1/chat/completions", stream=True, parallel_tool_calls=False)
    api = APIS["/v1/chat/completions"]
    assert grows(partial(stream, api, request), lambda length: chat_streams(length)[name]) < MOST


@pytest.mark.parametrize("path", ["/v1/completions", "/generate_stream"])
def test_stream_of_a_completion(path: str) -> None:
    request = chat_request(path, stream=True)
    assert grows(partial(stream, APIS[path], request), completion_stream) < MOST


def test_stream_with_many_choices() -> None:
    request = chat_request("/v1/chat/completions", stream=True)
    assert grows(partial(stream, APIS["/v1/chat/completions"], request), choices_stream) < MOST


# completeness

_RULES: Final[dict[str, dict[str, Rule]]] = {
    "/v1/chat/completions": chat.RULES,
    "/v1/completions": completions.RULES,
    "/v1/embeddings": embeddings.RULES,
    "/v1/responses": responses.RULES,
    "/v1/messages": anthropic._RULES,
    "/api/chat": ollama_chat.RULES,
    "/api/generate": ollama_generate.RULES,
    "/api/embed": ollama_fields.EMBEDDING,
    "/v1/rerank": RULES,
    "/rerank": TEI_RULES,
    "/v1/score": SCORE,
    "/v1/classify": CLASSIFY,
    "/v1/tokenize": TOKENIZE,
    "/v1/detokenize": DETOKENIZE,
    "/generate": PARAMETERS,
}
_LISTS: Final[tuple[list[Any], ...]] = ([{"type": "text"}], ["a"], [1])


@pytest.mark.parametrize("path", _RULES)
def test_every_list_of_an_api_is_doubled(path: str) -> None:
    wanted = {name for name, rule in _RULES[path].items() if any(rule.holds(value) for value in _LISTS)}
    documents = [document | document.get("parameters", {}) for document in lists(path, 3).values()]
    doubled = {name for document in documents for name, value in document.items() if isinstance(value, list)}
    assert wanted <= doubled

"""What programs read of the errors of models that do not serve: the member `berth`, judged by the official clients."""

import json
from typing import Any

import anthropic
import httpx
import httpx2
import ollama
import openai
import pytest

from berth.canonical import InferenceRequest
from berth.errors import ApiError, InvalidRequestError, NotReadyError
from berth.router.exchange.outcomes import outranked
from berth.router.server.api_routes import formats
from tests.apis.test_outranked import BODIES
from tests.fakes.responses import Memory, check_response

APIS = formats(Memory())
HELLO: Any = [{"role": "user", "content": "x"}]
ERROR = NotReadyError(
    "Model 'm' has no room on GPU 0: held by a, pinned.",
    code="no_room",
    should_retry=False,
    details={"model": "m", "status": "unloaded", "eta_s": 40.5, "holders": ("a",)},
)
DETAILS = {"code": "no_room", "model": "m", "status": "unloaded", "eta_s": 40.5, "holders": ["a"]}


@pytest.mark.parametrize("path", APIS)
def test_whole_response_has_them_in_its_error(path: str) -> None:
    document = json.loads(APIS[path].error(ERROR))
    error = document["error"]
    assert (error if isinstance(error, dict) else document)["berth"] == DETAILS


@pytest.mark.parametrize("path", APIS)
def test_other_errors_have_none(path: str) -> None:
    assert "berth" not in APIS[path].error(InvalidRequestError("no")).decode()


@pytest.mark.parametrize("path", BODIES)
def test_stream_that_fails_has_them_too(path: str) -> None:
    request = APIS[path].parse(json.dumps(BODIES[path]).encode())
    assert isinstance(request, InferenceRequest)
    sent = APIS[path].stream(request).fail(ERROR).decode()
    assert json.dumps(DETAILS, separators=(",", ":")) in sent.replace(": ", ":").replace(", ", ",")


def raised_by_openai(error: ApiError) -> openai.APIStatusError:
    answer = httpx2.Response(
        error.status, content=APIS["/v1/chat/completions"].error(error), headers={"content-type": "application/json"}
    )
    transport = httpx2.MockTransport(lambda _: answer)
    client = openai.OpenAI(
        base_url="http://b/v1", api_key="k", max_retries=0, http_client=httpx2.Client(transport=transport)
    )
    with pytest.raises(openai.APIStatusError) as raised:
        client.chat.completions.create(model="m", messages=HELLO)
    return raised.value


def test_openais_client_shows_them_beside_the_code() -> None:
    raised = raised_by_openai(ERROR)
    assert isinstance(raised.body, dict)
    assert (raised.code, raised.type, raised.body["berth"]) == ("no_room", "service_unavailable", DETAILS)
    assert ERROR.message in raised.message


def test_openais_client_takes_a_failed_response_with_them() -> None:
    request = APIS["/v1/responses"].parse(json.dumps(BODIES["/v1/responses"]).encode())
    assert isinstance(request, InferenceRequest)
    sent = APIS["/v1/responses"].stream(request).fail(outranked("m", 7)).decode()
    last = json.loads(sent.strip().rpartition("data: ")[2])
    failed = check_response(last["response"])
    assert (failed["error"]["code"], failed["error"]["berth"]) == (
        "rate_limit_exceeded",
        {"code": "outranked", "model": "m"},
    )


def test_anthropics_client_shows_them() -> None:
    api = APIS["/v1/messages"]
    answer = httpx2.Response(api.status(ERROR), content=api.error(ERROR), headers={"content-type": "application/json"})
    transport = httpx2.MockTransport(lambda _: answer)
    client = anthropic.Anthropic(
        base_url="http://b", api_key="k", max_retries=0, http_client=httpx2.Client(transport=transport)
    )
    with pytest.raises(anthropic.APIStatusError) as raised:
        client.messages.create(model="m", max_tokens=1, messages=HELLO)
    body: Any = raised.value.body
    assert (body["error"]["type"], body["error"]["berth"]) == ("api_error", DETAILS)


def test_ollamas_client_shows_its_message() -> None:
    api = APIS["/api/chat"]
    answer = httpx.Response(api.status(ERROR), content=api.error(ERROR))
    client = ollama.Client("http://b", transport=httpx.MockTransport(lambda _: answer))
    with pytest.raises(ollama.ResponseError) as raised:
        client.chat("m", HELLO)
    assert (raised.value.error, raised.value.status_code) == (ERROR.message, 503)

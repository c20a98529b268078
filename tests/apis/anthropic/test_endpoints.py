import orjson
import pytest

from berth import json_text
from berth.apis.anthropic.endpoints import AnthropicCountTokens, AnthropicMessages
from berth.apis.base import SSE, ApiFormat
from berth.canonical import Operation
from berth.errors import InvalidRequestError, OverloadedError
from tests.apis.anthropic.judge import HELLO, parse

BOTH = pytest.mark.parametrize("api", [AnthropicMessages(), AnthropicCountTokens()])


def test_parses_a_complete_request() -> None:
    request = parse(stream=True, service_tier="auto")

    assert (request.operation, request.model, request.stream, request.include_usage) == (
        Operation.CHAT,
        "m",
        True,
        True,
    )
    assert "stream_options" not in request.body
    assert request.original["service_tier"] == "auto"
    assert request.ignored == ("service_tier",)
    assert not parse().include_usage


def test_tokens_are_counted_without_max_tokens() -> None:
    api = AnthropicCountTokens()

    request = api.parse(orjson.dumps({"model": "m", "messages": HELLO, "system": "Be short."}))

    assert request.operation is Operation.TOKENIZE
    assert request.body["messages"] == [{"role": "system", "content": "Be short."}, *HELLO]
    assert api.response(request, b'{"count":12,"tokens":null,"max_model_len":2048}') == b'{"input_tokens":12}'


@BOTH
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"Hi"', b"{}"])
def test_rejects_invalid_request(api: ApiFormat, body: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        api.parse(body)


@BOTH
def test_common_attributes_of_endpoints(api: ApiFormat) -> None:
    full = OverloadedError("full")

    assert (api.stream_type, api.request_id_header) == (SSE, b"request-id")
    assert api.status(full) == 529
    assert orjson.loads(api.error(full))["error"]["type"] == "overloaded_error"
    assert not api.stream(parse()).plain


@pytest.mark.parametrize("depth", [100, 240, 244, 247, 250, 260])
def test_nesting_that_is_accepted_can_be_written(depth: int) -> None:
    deep = b'{"a":' * depth + b"1" + b"}" * depth
    use = b'{"type":"tool_use","id":"c","name":"f","input":' + deep + b"}"
    result = b'{"type":"tool_result","tool_use_id":"c"}'
    body = (
        b'{"model":"m","max_tokens":1,"tools":[{"name":"f","input_schema":' + deep + b'}],"messages":['
        b'{"role":"user","content":"Hi"},{"role":"assistant","content":[' + use + b"]},"
        b'{"role":"user","content":[' + result + b"]}]}"
    )
    try:
        request = AnthropicMessages().parse(body)
    except InvalidRequestError as error:
        refused = error.message
    else:
        refused = ""
        assert json_text.dumps(request.body)

    assert bool(refused) == (depth > 244)

"""Browsers against an open router: preflights, what pages can read, and what they may not send."""

import httpx
import orjson
import pytest

from berth.router.app import DOCUMENTS
from berth.router.exchange.web_pages import EXPOSED
from tests.fakes.router import LIMITS
from tests.fakes.router_fixture import RouterFixture
from tests.fakes.upstream import chat_answer, chat_stream

CHAT = {"model": "chat", "messages": [{"role": "user", "content": "hello"}]}
PAGE = {"origin": "http://localhost:3000"}
FOREIGN = {"origin": "https://evil.example"}
PREFLIGHT = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-stainless-os,anthropic-version",
}
# the browser shows these without permission, or the page has no use for them
NOT_EXPOSED = {"content-length", "content-type", "cache-control", "date", "server", "vary", "transfer-encoding"}
NOT_EXPOSED |= {"x-accel-buffering", "connection"}


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/messages", "/v1/responses", "/api/chat", "/v1/models", "/x"]
)
def test_preflight(router_fixture: RouterFixture, path: str) -> None:
    answer = httpx.options(router_fixture.url + path, headers={**PAGE, **PREFLIGHT})

    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == PAGE["origin"]
    assert answer.headers["access-control-allow-headers"] == PREFLIGHT["access-control-request-headers"]
    assert {"GET", "POST", "DELETE"} <= set(answer.headers["access-control-allow-methods"].split(", "))


def test_preflight_permits_private_networks_and_no_strange_headers(router_fixture: RouterFixture) -> None:
    wanted = {"access-control-request-private-network": "true", "access-control-request-headers": "a(b)"}

    answer = httpx.options(f"{router_fixture.url}/v1/models", headers={**PAGE, **PREFLIGHT, **wanted})

    assert answer.headers["access-control-allow-private-network"] == "true"
    assert "access-control-allow-headers" not in answer.headers


def test_preflight_of_a_foreign_page_is_refused(router_fixture: RouterFixture) -> None:
    answer = httpx.options(f"{router_fixture.url}/v1/messages", headers={**FOREIGN, **PREFLIGHT})

    assert (answer.status_code, answer.json()["error"]["type"]) == (403, "permission_error")
    assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_a_page_can_read_all_of_a_response(router_fixture: RouterFixture) -> None:
    chat, url = orjson.dumps(CHAT), router_fixture.url
    router_fixture.first.answers(chat_answer())
    answers = [httpx.get(url + path, headers=PAGE) for path in DOCUMENTS if "{" not in path]
    answers += [
        httpx.post(f"{url}/v1/chat/completions", content=chat, headers=PAGE),
        httpx.post(f"{url}/v1/messages", content=b"{", headers=PAGE),
        httpx.post(f"{url}/v1/chat/completions", content=chat.replace(b'"chat"', b'"loading"'), headers=PAGE),
        httpx.get(f"{url}/nothing", headers=PAGE),
        httpx.get(f"{url}/v1/messages", headers=PAGE),
        httpx.post(f"{url}/api/chat", content=chat, headers={**PAGE, "content-encoding": "br"}),
        httpx.post(f"{url}/api/chat", content=chat, headers={**PAGE, "x-berth-hops": "9"}),
        httpx.post(f"{url}/api/chat", content=bytes(LIMITS.max_body_bytes + 1), headers=PAGE),
    ]
    router_fixture.first.answers(*chat_stream("a", "b"))
    answers.append(httpx.post(f"{url}/v1/chat/completions", json={**CHAT, "stream": True}, headers=PAGE))

    assert {answer.status_code for answer in answers} >= {200, 400, 404, 405, 413, 415, 503, 508}
    for answer in answers:
        assert answer.headers["access-control-allow-origin"] == PAGE["origin"]
        assert answer.headers["vary"] == "origin"
        exposed = answer.headers["access-control-expose-headers"].split(", ")
        shown = {name for name in answer.headers if not name.startswith("access-control-")}
        assert shown - NOT_EXPOSED <= set(exposed) == set(EXPOSED)


def test_programs_get_no_headers_of_browsers(router_fixture: RouterFixture) -> None:
    answer = httpx.get(f"{router_fixture.url}/v1/models")

    assert not [name for name in answer.headers if name.startswith("access-control-") or name == "vary"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/api/chat", "/api/show", "/generate"])
@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "application/json"])
def test_a_foreign_page_cannot_send_a_request(router_fixture: RouterFixture, path: str, content_type: str) -> None:
    headers = {**FOREIGN, "content-type": content_type}

    answer = httpx.post(router_fixture.url + path, content=orjson.dumps(CHAT), headers=headers)

    assert (answer.status_code, router_fixture.first.requests) == (403, [])
    assert "BERTH_CORS_ORIGINS" in answer.text
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("path", ["/v1/models", "/status", "/api/tags", "/info", "/v1/models/chat"])
def test_a_rebound_name_reads_nothing(router_fixture: RouterFixture, path: str) -> None:
    answer = httpx.get(router_fixture.url + path, headers={"host": "evil.example:8000"})

    assert answer.status_code == 403
    assert "chat-vllm" not in answer.text


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics"])
def test_probes_may_use_any_name(router_fixture: RouterFixture, path: str) -> None:
    assert httpx.get(router_fixture.url + path, headers={"host": "gpu7.example.org"}).status_code != 403

"""Every path of the official clients is served, or gets an error in its API's format that says what to use instead."""

import re
from collections.abc import Iterator
from pathlib import Path

import anthropic
import cohere
import httpx
import ollama
import openai
import pytest

from berth.router.server.unserved import advice
from tests.fakes.router_fixture import RouterFixture

_CALL = re.compile(r'self\._(get|post|put|patch|delete|get_api_list)\(\s*(?:path_template\()?\s*f?"([^"?]+)')
_LISTED = re.compile(r'self\._get_api_list\(|method="(\w+)"')


def stainless(package: str, prefix: str) -> Iterator[tuple[str, str]]:
    """The methods and paths in a client that Stainless generates."""
    for file in (Path(package).parent / "resources").rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        for call in _CALL.finditer(text):
            verb = call[1]
            if verb == "get_api_list":
                given = _LISTED.search(text, call.end())
                verb = given[1] if given and given[1] else "get"
            yield verb.upper(), prefix + re.sub(r"\{[^}]*\}", "x", call[2])


def requests() -> set[tuple[str, str]]:
    found = {*stainless(str(openai.__file__), "/v1"), *stainless(str(anthropic.__file__), "")}
    text = Path(str(ollama.__file__)).with_name("_client.py").read_text(encoding="utf-8")
    found |= {(verb, path) for verb, path in re.findall(r"'(POST|GET|DELETE)',\s*f?'(/[^']+)'", text)}
    for file in Path(str(cohere.__file__)).parent.rglob("*client.py"):
        found |= {("POST", f"/{path}") for path in re.findall(r'^\s+"(v[12]/[a-z-]+)"', file.read_text(), re.MULTILINE)}
    return {(verb, re.sub(r"\{[^}]*\}", "x", path)) for verb, path in found}


def test_the_clients_paths_are_found() -> None:
    found = requests()

    assert len(found) > 500
    assert {("POST", "/v1/responses/compact"), ("GET", "/v1/messages/batches/x"), ("POST", "/v2/embed")} <= found
    assert {("POST", "/api/blobs/x"), ("GET", "/v1/models")} <= found


def test_every_path_of_the_clients_is_served_or_explained(router_fixture: RouterFixture) -> None:
    bare = []
    with httpx.Client(base_url=router_fixture.url, trust_env=False) as http:
        for verb, path in sorted(requests()):
            answer = http.request(verb, path, json={} if verb == "POST" else None)
            explained = answer.status_code == 501 and "not" in answer.text
            if not explained and ("unknown path" in answer.text or answer.status_code == 405):
                bare.append((verb, path, answer.text))

    assert bare == []


@pytest.mark.parametrize(
    ("verb", "path", "words"),
    [
        ("POST", "/v1/responses/compact", "summary"),
        ("POST", "/v1/conversations", "previous_response_id"),
        ("GET", "/tokenizer_info", "POST /tokenize"),
        ("DELETE", "/v1/models/chat", "BERTH_MODELS"),
        ("GET", "/v1/chat/completions", "POST /v1/chat/completions"),
        ("HEAD", "/api/blobs/sha256:0", ""),
    ],
)
def test_says_what_to_use_instead(router_fixture: RouterFixture, verb: str, path: str, words: str) -> None:
    answer = httpx.request(verb, router_fixture.url + path, trust_env=False)

    assert (answer.status_code, answer.headers["x-should-retry"]) == (501, "false")
    assert words in answer.text


def test_answers_in_the_clients_format(router_fixture: RouterFixture) -> None:
    theirs = anthropic.Anthropic(base_url=router_fixture.url, api_key="k")
    with theirs, pytest.raises(anthropic.InternalServerError, match="one by one") as refused:
        theirs.messages.batches.list()
    assert refused.value.type == "api_error"
    official = openai.OpenAI(base_url=f"{router_fixture.url}/v1", api_key="k")
    with official, pytest.raises(openai.InternalServerError, match="stores no files"):
        official.files.list()


def test_knows_nothing_of_other_paths() -> None:
    assert advice("/v1/teleport") is None
    assert advice("/") is None
    assert advice("/v1") is None

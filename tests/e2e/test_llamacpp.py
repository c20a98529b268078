"""The real llama.cpp server, attached: Berth finds out what it is, and serves all that its dialect promises."""

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest
from openai import OpenAI

from tests.e2e.appliance import Appliance, wait_for
from tests.e2e.killed_streams import TRIES
from tests.e2e.slow_processes import slow_down
from tests.fakes.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.engine, pytest.mark.timeout(180)]

HELLO: Any = [{"role": "user", "content": "Say something about ships."}]
SCHEMA: Any = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
CONTEXT, SLOTS = 2048, 2
PULSE_S = 0.0005  # in which it generates a few tokens


def tool(name: str) -> Any:
    city = {"type": "object", "properties": {"city": {"type": "string", "enum": ["Paris"]}}, "required": ["city"]}
    return {"type": "function", "function": {"name": name, "parameters": city}}


class Server:
    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"


@contextmanager
def serving(binary: Path, model: Path, *arguments: str, port: int = 0) -> Iterator[Server]:
    port = port or free_port()
    size = ("-c", str(CONTEXT * SLOTS), "-np", str(SLOTS), "-t", "1", "--no-ui")
    command = [str(binary), "-m", str(model), "--host", "127.0.0.1", "--port", str(port), "--jinja", *size, *arguments]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        server = Server(process, port)
        try:
            wait_for(lambda: process.poll() is not None or is_well(server), 30, lambda: "it does not respond")
            if process.returncode == -signal.SIGILL:  # it was built for another one
                pytest.skip("llama-server uses instructions that this processor does not have")
            assert process.returncode is None, f"exit code {process.returncode}"
            yield server
        finally:
            process.kill()


def is_well(server: Server) -> bool:
    try:
        return httpx.get(f"{server.url}/health", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def server(llama_server: Path, tiny_gguf: Path) -> Iterator[Server]:
    with serving(llama_server, tiny_gguf) as server:
        yield server


@pytest.fixture(scope="module")
def berth(server: Server) -> Iterator[Appliance]:
    with Appliance(f"ships={server.url}/v1") as appliance:
        yield appliance.wait_ready()


@pytest.fixture(scope="module")
def client(berth: Appliance) -> OpenAI:
    return berth.openai()


@pytest.fixture(scope="module")
def paragraph(tiny_model: Path) -> str:
    return str(json.loads((tiny_model / "script.json").read_text())["paragraph"])


def chat(client: OpenAI, **fields: Any) -> Any:
    return client.chat.completions.create(**{"model": "ships", "messages": HELLO, "temperature": 0, **fields})


def test_plan_says_what_the_server_said(berth: Appliance, tiny_gguf: Path) -> None:
    (replica,) = berth.plan().replicas
    assert (replica.name, replica.dialect, replica.served_name) == ("ships-attached", "llamacpp", str(tiny_gguf))
    assert (replica.context, replica.concurrency) == (CONTEXT, SLOTS)


def test_headers_name_the_server(berth: Appliance) -> None:
    headers = berth.chat("ships", max_tokens=1).headers
    assert (headers["x-berth-engine"], headers["x-berth-replica"]) == ("llamacpp", "ships-attached")


def test_chat_whole_and_streamed(client: OpenAI, paragraph: str) -> None:
    answer = chat(client)
    assert (answer.choices[0].message.content, answer.model) == (paragraph, "ships")
    chunks = list(chat(client, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == paragraph
    assert [chunk.usage.completion_tokens for chunk in chunks if chunk.usage] == [answer.usage.completion_tokens]
    assert all(choice.finish_reason is None for chunk in chunks[:-2] for choice in chunk.choices)


@pytest.mark.parametrize("stream", [False, True])
def test_named_tool_is_called(client: OpenAI, stream: bool) -> None:
    named = {"type": "function", "function": {"name": "get_weather"}}
    fields = {"tools": [tool("other"), tool("get_weather")], "tool_choice": named, "stream": stream}
    answer = chat(client, **fields)
    if stream:
        calls = [call for chunk in answer for one in chunk.choices for call in one.delta.tool_calls or ()]
        name = next(call.function.name for call in calls if call.function.name)
        arguments = "".join(call.function.arguments or "" for call in calls)
    else:
        (call,) = answer.choices[0].message.tool_calls
        name, arguments = call.function.name, call.function.arguments
    assert (name, json.loads(arguments)) == ("get_weather", {"city": "Paris"})


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
        {"response_format": {"type": "json_object"}},
        {"extra_body": {"guided_json": SCHEMA}},
        {"extra_body": {"structured_outputs": {"json": SCHEMA}}},
    ],
)
def test_json_in_every_spelling(client: OpenAI, fields: Any) -> None:
    assert isinstance(json.loads(chat(client, max_tokens=120, **fields).choices[0].message.content), dict)


@pytest.mark.parametrize(
    ("constraint", "texts"),
    [
        ({"guided_choice": ["red sails", 'no "fish"']}, {"red sails", 'no "fish"'}),
        ({"guided_grammar": 'root ::= "a" | "b"'}, {"a", "b"}),
    ],
)
def test_choices_and_grammars_hold(client: OpenAI, constraint: Any, texts: set[str]) -> None:
    assert chat(client, extra_body=constraint).choices[0].message.content in texts
    completion = client.completions.create(model="ships", prompt="The", max_tokens=20, extra_body=constraint)
    assert completion.choices[0].text in texts


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"extra_body": {"guided_regex": "[0-9]{3}"}}, "guided_regex"),
        ({"extra_body": {"min_tokens": 5}}, "min_tokens"),
        ({"extra_body": {"stop_token_ids": [7]}}, "stop_token_ids"),
    ],
)
def test_what_it_would_ignore_is_refused(client: OpenAI, fields: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        chat(client, **fields)
    assert error.value.param == param


def test_several_choices_and_log_probabilities(client: OpenAI, paragraph: str) -> None:
    answer = chat(client, n=2, logprobs=True, top_logprobs=2, max_tokens=3)
    assert [choice.message.content for choice in answer.choices] == [paragraph[: len("Every morning the")]] * 2
    assert len(answer.choices[1].logprobs.content) == 3
    chunks = list(chat(client, n=2, max_tokens=3, stream=True, stream_options={"include_usage": True}))
    assert [chunk.usage.completion_tokens for chunk in chunks if chunk.usage] == [6]
    assert chunks[-1].choices == []


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_of_completions_are_lists(client: OpenAI, stream: bool) -> None:
    fields: Any = {"prompt": "Every morning the", "max_tokens": 2, "temperature": 0, "logprobs": 1, "stream": stream}
    answer: Any = client.completions.create(model="ships", **fields)
    choices = [choice for chunk in (answer if stream else [answer]) for choice in chunk.choices]
    found = [choice.logprobs for choice in choices if choice.logprobs]
    assert [token for one in found for token in one.tokens] == [" keeper", " climbs"]
    assert [offset for one in found for offset in one.text_offset] == [0, len(" keeper")]
    assert found[0].top_logprobs[0][" keeper"] == found[0].token_logprobs[0]


def test_too_long_has_openais_code(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        chat(client, messages=[{"role": "user", "content": "walls " * 5000}])
    assert error.value.code == "context_length_exceeded"


def test_image_for_a_text_model_is_the_clients_mistake(berth: Appliance, client: OpenAI) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    for _ in range(6):
        with pytest.raises(openai.BadRequestError):
            chat(client, messages=[{"role": "user", "content": [picture]}])
    assert berth.replicas()["ships-attached"]["reachable"]
    assert chat(client, max_tokens=1).choices


def test_completions_of_texts_and_ids(client: OpenAI) -> None:
    answer = client.completions.create(
        model="ships", prompt=["Every morning the", "Every"], max_tokens=2, temperature=0
    )
    assert [choice.text for choice in answer.choices] == [" keeper climbs", " morning the"]
    assert (
        client.completions.create(model="ships", prompt=[300, 301], max_tokens=1).choices[0].finish_reason == "length"
    )


def test_counts_and_lists_tokens(berth: Appliance) -> None:
    tokens = berth.http.post("/tokenize", json={"model": "ships", "prompt": "Every morning"}).json()
    assert (tokens["count"], len(tokens["tokens"])) == (2, 2)
    text = berth.http.post("/detokenize", json={"model": "ships", "tokens": tokens["tokens"]}).json()
    assert text["prompt"] == "Every morning"
    alone = berth.chat("ships", messages=HELLO, max_tokens=1).json()["usage"]["prompt_tokens"]
    claude = anthropic.Anthropic(base_url=berth.url, api_key="none", max_retries=0)
    assert claude.messages.count_tokens(model="ships", messages=HELLO).input_tokens == alone


def test_embeds_and_ranks(llama_server: Path, tiny_gguf: Path) -> None:
    with (
        serving(llama_server, tiny_gguf, "--embedding", "--pooling", "mean") as embeds,
        serving(llama_server, tiny_gguf, "--reranking", "--pooling", "rank") as ranks,
        Appliance(
            f"embed: {{engines: [{{url: '{embeds.url}'}}], task: embed}}\n"
            f"rank: {{engines: [{{url: '{ranks.url}'}}], task: rerank}}"
        ) as berth,
    ):
        client = berth.wait_ready().openai()
        assert len(client.embeddings.create(model="embed", input=["red sails", "walls"]).data[1].embedding) == 256
        body = {"model": "rank", "query": "sails", "documents": ["red sails", "walls"]}
        results = berth.http.post("/v1/rerank", json=body).json()["results"]
        assert sorted(result["index"] for result in results) == [0, 1]


@pytest.mark.parametrize("words", [1, 40])
def test_stream_is_continued_exactly_after_a_kill(
    llama_server: Path, tiny_gguf: Path, paragraph: str, words: int
) -> None:
    """Both servers are on one host, and serve the same file: so they are known to have the same weights. A kill that
    comes too late is one more try.
    """
    for _ in range(TRIES):
        with serving(llama_server, tiny_gguf) as first, serving(llama_server, tiny_gguf) as second:
            models = {"ships": {"engines": [{"url": first.url}, {"url": second.url}]}}
            with Appliance(json.dumps(models)) as berth:
                berth.wait(lambda: {one["status"] for one in berth.replicas().values()} == {"ready"})
                with slow_down([first.process.pid, second.process.pid], PULSE_S):
                    text, usage, comments = killed_stream(berth, first, words)
        assert text == paragraph
        assert usage == {"prompt_tokens": 18, "completion_tokens": 86, "total_tokens": 104}
        if any("berth moved ships-attached -> ships-attached-2" in comment for comment in comments):
            return
    raise AssertionError(f"in {TRIES} tries no stream was under way when its server was killed")


def killed_stream(berth: Appliance, server: Server, words: int) -> tuple[str, dict[str, int], list[str]]:
    """The text, the usage and the comments of a stream whose server is killed after some words."""
    body = {"model": "ships", "messages": HELLO, "stream": True, "temperature": 0}
    text, comments = "", []
    usage: dict[str, int] = {}
    asked = {**body, "stream_options": {"include_usage": True}}
    with berth.http.stream("POST", "/v1/chat/completions", json=asked) as answer:
        for line in filter(None, answer.iter_lines()):
            if line.startswith(":"):
                comments.append(line)
            elif line != "data: [DONE]":
                chunk = json.loads(line.removeprefix("data: "))
                text += "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])
                usage = chunk.get("usage") or usage
                if len(text.split()) > words:
                    server.process.kill()
    counted = ("prompt_tokens", "completion_tokens", "total_tokens")
    return text, {name: usage[name] for name in counted}, comments

"""The real vLLM on the CPU, behind Berth, judged by the official client and by its own answers without Berth."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import httpx2
import openai
import pytest
from openai import OpenAI

from berth.plan import Keys, Replica
from tests.e2e.appliance import Appliance, end, wait_for
from tests.e2e.conftest import SHIM
from tests.fakes.collector import CLIENT, SERVER, Collector, Span

pytestmark = [pytest.mark.slow, pytest.mark.engine, pytest.mark.timeout(300)]

HELLO: Any = [{"role": "user", "content": "Hello"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def models(source: Path) -> str:
    engine = {"engine": "vllm", "env": {"OTEL_BSP_SCHEDULE_DELAY": "200"}}  # it sends its spans every 5 s otherwise
    return json.dumps(
        {
            "org/chat": {"source": str(source), "engines": [engine], "aliases": ["gpt-4o-mini"], "context": 1024},
            "embed": {"source": str(source), "engines": ["vllm"], "task": "embed"},
        }
    )


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as made:
        yield made


@pytest.fixture(scope="module")
def berth(forked_vllm: Path, tiny_model: Path, collector: Collector) -> Iterator[Appliance]:
    variables = {"BERTH_ENGINE_HOME": str(forked_vllm), "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
    # Only requests with a parent have spans, so that the other tests have none.
    with Appliance(models(tiny_model), OTEL_TRACES_SAMPLER="parentbased_always_off", **variables) as appliance:
        yield appliance.wait_ready(600)


@pytest.fixture(scope="module")
def client(berth: Appliance) -> OpenAI:
    return berth.openai()


@pytest.fixture(scope="module")
def engine(berth: Appliance) -> Iterator[OpenAI]:
    """The same engine, without Berth in between."""
    replica = chat_replica(berth)
    key = Keys.from_json(berth.paths.keys.read_bytes()).upstream_keys[replica.name]
    http = openai.DefaultHttpxClient(transport=httpx2.HTTPTransport(uds=replica.socket_path))
    with OpenAI(base_url="http://localhost/v1", api_key=key, max_retries=0, http_client=http) as client:
        yield client


@pytest.fixture(scope="module")
def wire(berth: Appliance) -> Iterator[httpx.Client]:
    """The same, byte for byte."""
    alone = httpx.Limits(max_keepalive_connections=0)  # vLLM closes a connection that was idle for 5 s
    transport = httpx.HTTPTransport(uds=chat_replica(berth).socket_path, limits=alone)
    with httpx.Client(transport=transport, base_url="http://localhost", timeout=60) as client:
        yield client


def chat_replica(berth: Appliance) -> Replica:
    (replica,) = [replica for replica in berth.plan().replicas if replica.model == "org/chat"]
    return replica


@pytest.fixture(scope="module")
def script(tiny_model: Path) -> dict[str, str]:
    texts: dict[str, str] = json.loads((tiny_model / "script.json").read_text())
    return texts


def streamed(client: OpenAI, **fields: Any) -> str:
    chunks = client.chat.completions.create(model="org/chat", messages=HELLO, stream=True, temperature=0, **fields)
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def whole(client: OpenAI, **fields: Any) -> str:
    answer = client.chat.completions.create(model="org/chat", messages=HELLO, temperature=0, **fields)
    return answer.choices[0].message.content or ""


def test_chat_returns_the_models_text(client: OpenAI, script: dict[str, str]) -> None:
    answer = client.chat.completions.create(model="org/chat", messages=HELLO)
    assert answer.choices[0].message.content == script["paragraph"]
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "org/chat"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 80


@pytest.mark.parametrize("fields", [{}, {"max_tokens": 7}, {"seed": 3, "stop": ["lanterns"]}])
def test_greedy_text_is_the_same_with_and_without_berth(client: OpenAI, engine: OpenAI, fields: dict[str, Any]) -> None:
    expected = whole(engine, **fields)
    assert expected
    assert whole(client, **fields) == expected
    assert streamed(client, **fields) == expected
    assert streamed(engine, **fields) == expected


def test_frames_have_the_engines_shape(berth: Appliance, engine: OpenAI, wire: httpx.Client) -> None:
    body = {"model": "org/chat", "messages": HELLO, "stream": True, "temperature": 0, "max_tokens": 5}
    direct = wire.post("/v1/chat/completions", json=body, headers=engine.auth_headers)
    through = berth.http.post("/v1/chat/completions", json=body)
    assert through.headers["content-type"] == direct.headers["content-type"]
    assert list(dict.fromkeys(shapes(through.text))) == list(dict.fromkeys(shapes(direct.text)))


def shapes(stream: str) -> list[str]:
    """Each frame's fields. How many tokens come in one frame depends on how busy the machine is.

    vLLM puts its fingerprint into the very last frame: that of the usage, where Berth asks for it on its own behalf.
    """
    return [shape(frame.removeprefix("data: ")) for frame in stream.split("\n\n")]


def shape(data: str) -> str:
    if not data.startswith("{"):
        return data
    chunk = json.loads(data)
    chunk.pop("system_fingerprint", None)
    delta = chunk["choices"][0]["delta"]
    return f"{sorted(chunk)} {sorted(chunk['choices'][0])} {sorted(delta)} {chunk['choices'][0]['finish_reason']}"


@pytest.mark.parametrize("stream", [True, False])
def test_client_disconnect_stops_the_engine(berth: Appliance, wire: httpx.Client, stream: bool) -> None:
    """On a busy machine the engine may complete the response before the client leaves: then it is tried again."""
    tokens, tries = 900, 8
    body = {"model": "org/chat", "messages": HELLO, "stream": stream, "max_tokens": tokens, "ignore_eos": True}
    content = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(content)}\r\n\r\n".encode()
    address = (berth.http.base_url.host, berth.http.base_url.port or 0)

    def leave_early() -> float:
        """The tokens that the engine generated for it."""
        before = engine_figure(wire, "generation_tokens_total")
        with socket.create_connection(address, timeout=60) as client:
            client.sendall(head + content)
            wait_for(lambda: engine_figure(wire, "generation_tokens_total") > before, 60, berth.output)
        wait_for(lambda: engine_figure(wire, "num_requests_running") == 0, 60, berth.output)
        return engine_figure(wire, "generation_tokens_total") - before

    assert any(leave_early() < tokens for _ in range(tries)), f"{tries} times it generated all {tokens} tokens"


def engine_figure(wire: httpx.Client, name: str) -> float:
    """From the engine's own metrics."""
    lines = wire.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"vllm:{name}{{"))


def test_stream_has_usage_on_request(client: OpenAI) -> None:
    chunks = client.chat.completions.create(
        model="org/chat", messages=HELLO, stream=True, stream_options={"include_usage": True}, max_tokens=9
    )
    usages = [chunk.usage for chunk in chunks if chunk.usage]
    assert [usage.completion_tokens for usage in usages] == [9]


def test_calls_a_tool(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="org/chat", messages=HELLO, tools=[WEATHER])
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Paris"})
    assert answer.choices[0].finish_reason == "tool_calls"


def test_calls_a_tool_in_a_stream(client: OpenAI) -> None:
    chunks = client.chat.completions.create(model="org/chat", messages=HELLO, tools=[WEATHER], stream=True)
    calls = [call for chunk in chunks for choice in chunk.choices for call in choice.delta.tool_calls or []]
    arguments = "".join(call.function.arguments or "" for call in calls if call.function)
    assert json.loads(arguments) == {"city": "Paris"}


def test_completions_continue_the_prompt(client: OpenAI, engine: OpenAI) -> None:
    texts = [
        one.completions.create(model="org/chat", prompt="Every morning the", max_tokens=6, temperature=0)
        .choices[0]
        .text
        for one in (client, engine)
    ]
    assert texts == [" keeper climbs two hundred iron steps"] * 2


def test_completions_stream(client: OpenAI) -> None:
    chunks = client.completions.create(model="org/chat", prompt="Every morning the", max_tokens=3, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == " keeper climbs two"


def test_embeds_one_and_several_texts(client: OpenAI) -> None:
    one = client.embeddings.create(model="embed", input="red sails")
    many = client.embeddings.create(model="embed", input=["red sails", "walls built long ago"], encoding_format="float")
    assert len(one.data[0].embedding) == 256
    assert many.data[0].embedding == pytest.approx(one.data[0].embedding, abs=1e-4)
    assert many.data[1].embedding != pytest.approx(one.data[0].embedding, abs=1e-2)
    assert one.model == "embed"


def test_lists_models_and_accepts_aliases(client: OpenAI) -> None:
    assert {"org/chat", "embed"} <= {model.id for model in client.models.list()}
    assert client.models.retrieve("org/chat").id == "org/chat"
    assert client.chat.completions.create(model="gpt-4o-mini", messages=HELLO, max_tokens=1).choices


def test_response_headers_name_engine_and_replica(berth: Appliance) -> None:
    answer = berth.chat("org/chat", max_tokens=1)
    assert answer.headers["x-berth-engine"] == "vllm"
    assert answer.headers["x-berth-attempts"] == "1"
    assert answer.headers["x-berth-replica"] in berth.replicas()
    assert answer.headers["x-request-id"]


def test_unknown_model_is_openais_404(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as error:
        client.chat.completions.create(model="no-such-model", messages=HELLO)
    assert error.value.code == "model_not_found"


def test_prompt_over_the_context_is_openais_400(client: OpenAI) -> None:
    long: Any = [{"role": "user", "content": "walls " * 1100}]
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model="org/chat", messages=long)
    assert error.value.code == "context_length_exceeded"


def test_chat_with_an_embedding_model_is_a_client_error(client: OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as error:
        client.chat.completions.create(model="embed", messages=HELLO)
    assert error.value.status_code in {400, 404}


def test_engine_killed_while_streaming_is_replaced_and_recovers(forked_vllm: Path, tiny_model: Path) -> None:
    engines = ["vllm", {"engine": "sim", "dialect": "sglang"}]
    text = json.dumps({"m": {"source": str(tiny_model), "engines": engines, "standby": "hot", "task": "generate"}})
    with Appliance(text, BERTH_ENGINE_HOME=str(forked_vllm)) as appliance:
        appliance.wait(lambda: {one["status"] for one in appliance.replicas().values()} == {"ready"}, 90)
        lines = stream_lines(appliance, kill_after=5)
        assert any('"error"' in line for line in lines)
        assert lines[-1] != "data: [DONE]" or '"error"' in lines[-2]
        assert appliance.chat("m").headers["x-berth-engine"] == "sim"
        appliance.wait(lambda: appliance.chat("m").headers["x-berth-engine"] == "vllm", 60)


def stream_lines(appliance: Appliance, *, kill_after: int) -> list[str]:
    """What a client gets of an endless stream whose engine is killed after some lines."""
    body = {"model": "m", "messages": HELLO, "stream": True, "ignore_eos": True, "max_tokens": 3000}
    lines = []
    with appliance.http.stream("POST", "/v1/chat/completions", json=body) as answer:
        for line in filter(None, answer.iter_lines()):
            lines.append(line)
            if len(lines) == kill_after:
                end(appliance.find(str(SHIM)))
    return lines


def test_normally_started_engine_serves(vllm: Path, tiny_model: Path, script: dict[str, str]) -> None:
    """As `make run` does it, a second start in seconds included."""
    with Appliance(f"tiny={tiny_model}@vllm", BERTH_ENGINE_HOME=str(vllm)) as appliance:
        appliance.wait_ready(600)
        assert whole_text(appliance) == script["paragraph"]


def whole_text(appliance: Appliance) -> str:
    answer = appliance.openai().chat.completions.create(model="tiny", messages=HELLO)
    return answer.choices[0].message.content or ""


def test_span_of_the_engine_is_a_child_of_the_attempt(berth: Appliance, collector: Collector) -> None:
    sampled, unsampled = "1" * 32, "2" * 32
    for trace_id, flag in ((unsampled, "00"), (sampled, "01")):
        headers = {"traceparent": f"00-{trace_id}-b7ad6b7169203331-{flag}"}
        body = {"model": "org/chat", "messages": HELLO, "max_tokens": 4}
        berth.http.post("/v1/chat/completions", json=body, headers=headers).raise_for_status()

    def of(trace_id: str) -> dict[str, Span]:
        """Besides, vLLM sends spans of its start."""
        return {span.name: span for span in collector.spans if span.trace_id == trace_id}

    wait_for(lambda: len(of(sampled)) >= 3, 20, lambda: str(collector.spans))

    spans = of(sampled)
    assert of(unsampled) == {}
    engine, attempt, request = spans["llm_request"], spans["chat org/chat"], spans["openai chat"]
    assert (engine.kind, attempt.kind, request.kind) == (SERVER, CLIENT, SERVER)
    assert [engine.parent_id, attempt.parent_id] == [attempt.span_id, request.span_id]
    assert engine.resource["service.name"] == chat_replica(berth).name
    assert attempt.start <= engine.start + 5e6
    assert engine.end <= attempt.end + 5e6

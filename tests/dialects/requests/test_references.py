import base64
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.canonical import InferenceRequest, Json, Media, Operation
from berth.dialects.requests.references import MOST_HOSTS, Fetching, host_of, hosts_named, is_public
from berth.errors import InvalidRequestError

OFFLINE, ONLINE = Fetching(offline=True), Fetching()
LISTED = Fetching(hosts=frozenset({"images.example.org", "10.0.0.5"}))
URL = "https://images.example.org/cat.png"
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(20)).decode()


def chat(*parts: Any, **fields: Any) -> InferenceRequest:
    messages = [{"role": "user", "content": "x"}, {"role": "user", "content": list(parts)}]
    return InferenceRequest(operation=Operation.CHAT, model="m", body={"model": "m", "messages": messages, **fields})


def media(document: Json) -> InferenceRequest:
    sent = Media(path="/v1/audio/speech", content_type="application/json", document={"model": "m", **document})
    return InferenceRequest(operation=Operation.MEDIA, model="m", body={}, media=sent)


def form(**fields: Any) -> InferenceRequest:
    sent = Media(path="/v1/audio/transcriptions", content_type="multipart/form-data; boundary=x", fields=fields)
    return InferenceRequest(operation=Operation.MEDIA, model="m", body={}, media=sent)


# Where engines read references from: each takes what stands there and makes the request.
PLACES: dict[str, Any] = {
    "image_url": lambda url: chat({"type": "image_url", "image_url": {"url": url}}),
    "image_url as text": lambda url: chat({"type": "image_url", "image_url": url}),
    "image_url in a list": lambda url: chat({"type": "image_url", "image_url": [{"url": url}]}),
    "url in url": lambda url: chat({"type": "image_url", "image_url": {"url": {"url": url}}}),
    "type in capitals": lambda url: chat({"type": "IMAGE_URL", "IMAGE_URL": {"url": url}}),
    "video_url": lambda url: chat({"type": "video_url", "video_url": {"url": url}}),
    "audio_url": lambda url: chat({"type": "audio_url", "audio_url": {"url": url}}),
    "input_audio": lambda url: chat({"type": "input_audio", "input_audio": {"data": url, "format": "wav"}}),
    "input_image": lambda url: chat({"type": "input_image", "image_url": url}),
    "image": lambda url: chat({"type": "image", "image": url}),
    "url of an image": lambda url: chat({"type": "image", "url": url}),
    "source": lambda url: chat({"type": "image", "source": {"type": "url", "url": url}}),
    "frames": lambda url: chat({"type": "video", "video": ["data:image/png;base64,AAAA", url]}),
    "file": lambda url: chat({"type": "file", "file": {"file_data": url, "filename": "x.pdf"}}),
    "unknown type": lambda url: chat({"type": "zzz", "zzz": url}),
    "a text with an image": lambda url: chat({"type": "text", "text": "x", "image_url": {"url": url}}),
    "second of two": lambda url: chat({"type": "image_url", "image_url": {"url": "data:,"}, "video_url": {"url": url}}),
    "image_data": lambda url: chat(image_data=[url]),
    "field of a message": lambda url: chat(messages=[{"role": "user", "content": "x", "images": [url]}]),
    "image_data of a completion": lambda url: InferenceRequest(
        operation=Operation.COMPLETION, model="m", body={"model": "m", "prompt": "x", "image_data": url}
    ),
    "input of an embedding": lambda url: InferenceRequest(
        operation=Operation.EMBEDDING, model="m", body={"model": "m", "input": [{"image": url}]}
    ),
    "messages of an embedding": lambda url: InferenceRequest(
        operation=Operation.EMBEDDING,
        model="m",
        body={"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]},
    ),
    "messages to tokenize": lambda url: InferenceRequest(
        operation=Operation.TOKENIZE,
        model="m",
        body={"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]},
    ),
    "ref_audio of speech": lambda url: media({"input": "x", "voice": "a", "ref_audio": url}),
    "image of an image": lambda url: media({"prompt": "x", "image": url}),
    "url of an image to make": lambda url: media({"prompt": "x", "url": url}),
    "moderation": lambda url: media({"input": [{"type": "image_url", "image_url": {"url": url}}]}),
    "file of a form": lambda url: form(file=[url]),
    "url of a form": lambda url: form(url=["data:,", url]),
}
# What is no reference that may pass, whatever hosts are allowed.
NEVER = [
    f" {URL}",
    f"\0{URL}",
    f"\n{URL}",
    f"\u00a0{URL}",
    f"\ufeff{URL}",
    f"{URL}\n",
    "ht\ttps://images.example.org/",
    "https:\\\\images.example.org/",
    "https:images.example.org",
    "https:/images.example.org",
    "https:///images.example.org",
    "https://user@images.example.org/",
    "https://images.example.org@10.0.0.1/",
    "https://images.example.org\\@10.0.0.1/",
    "https://images.example.org%2f@10.0.0.1/",
    "https://images。example。org/",  # dots for an IDNA reader
    "https://[::1%25lo]/",
    "file:///etc/passwd",
    "FILE:/etc/passwd",
    "ftp://images.example.org/",
    "s3://bucket/key",
    "/etc/ssl/x.png",
    "//usr/share/x",
    "etc/ssl/cert",
    "../x.png",
    "~/x.png",
    "x.png",
    "DATA:image/png;base64,AAAA",
    "AAA A",
]


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("fetching", [OFFLINE, ONLINE, LISTED], ids=["offline", "online", "listed"])
def test_rejects_anything_but_plain_urls(place: Any, fetching: Fetching) -> None:
    for reference in NEVER:
        with pytest.raises(InvalidRequestError, match="the content itself") as rejected:
            hosts_named(place(reference), fetching)
        assert rejected.value.param, reference


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_accepts_urls_of_allowed_hosts_except_offline(place: Any) -> None:
    assert hosts_named(place(URL), LISTED) == frozenset()
    assert hosts_named(place(URL), ONLINE) == {"images.example.org"}
    for fetching in (OFFLINE, Fetching(hosts=frozenset()), Fetching(hosts=frozenset({"example.org"}))):
        with pytest.raises(InvalidRequestError, match="content itself"):
            hosts_named(place(URL), fetching)


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("content", ["data:image/png;base64,AAAA", PNG, f"{PNG[:20]}\n{PNG[20:]}", "x" * 5000, ""])
def test_accepts_inline_content_offline(place: Any, content: str) -> None:
    assert hosts_named(place(content), OFFLINE) == frozenset()


BLANKS = st.text(st.sampled_from("\0\t\n\r\x0b\x0c\x1b \x7f\x85\u00a0\u2003\u200b\u2028\u3000\ufeff"), max_size=4)
SCHEMES = st.sampled_from(["http", "https", "file", "ftp", "s3", "gopher"])


@given(BLANKS, SCHEMES, st.data(), st.sampled_from(sorted(PLACES)))
def test_rejects_every_spelling_of_a_url_offline(front: str, scheme: str, data: st.DataObject, place: str) -> None:
    letters = [
        data.draw(st.sampled_from([letter, letter.upper()])) + data.draw(st.sampled_from(["", "", "\t", "\n"]))
        for letter in scheme
    ]
    url = f"{front}{''.join(letters)}://169.254.169.254/x.png"

    with pytest.raises(InvalidRequestError, match="BERTH_OFFLINE=1"):
        hosts_named(PLACES[place](url), OFFLINE)
    with pytest.raises(InvalidRequestError):
        hosts_named(chat(never_heard_of=url), OFFLINE)
    with pytest.raises(InvalidRequestError):
        hosts_named(PLACES[place](url), ONLINE)


@given(st.text(max_size=50))
def test_does_not_check_texts(text: str) -> None:
    said = f"{text}{URL}"
    schema = {"type": "object", "properties": {"image_url": {"type": "string", "description": said, "default": said}}}
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": said}}
    messages = [
        {"role": "system", "content": said},
        {"role": "assistant", "content": said, "reasoning": said, "tool_calls": [call], "annotations": [{"url": said}]},
        {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": said}, said]},
        {"role": "user", "content": [{"type": "input_text", "text": said}, {"type": "refusal", "refusal": said}]},
    ]
    fields: Json = {
        "tools": [{"type": "function", "function": {"name": "f", "description": said, "parameters": schema}}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
        "chat_template_kwargs": {"image_url": said},
        "documents": [{"title": "x", "url": said}],
        "metadata": {"url": said},
        "stop": [said],
        "user": said,
    }

    assert hosts_named(chat(**{**fields, "messages": messages}), OFFLINE) == frozenset()
    bodies: dict[Operation, Json] = {
        Operation.COMPLETION: {"prompt": [said], "suffix": said},
        Operation.EMBEDDING: {"input": said},
        Operation.RERANK: {"query": said, "documents": [said]},
        Operation.SCORE: {"text_1": said, "text_2": [said]},
        Operation.CLASSIFY: {"input": [said]},
    }
    for operation, body in bodies.items():
        assert not hosts_named(InferenceRequest(operation=operation, model="m", body=body), OFFLINE)
    assert not hosts_named(media({"input": said, "instructions": said, "voice": "alloy"}), OFFLINE)
    assert not hosts_named(form(prompt=[said], model=["m"], language=["en"], response_format=["json"]), OFFLINE)


@pytest.mark.parametrize(
    "request_",
    [
        chat({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}", "detail": "low"}, "uuid": "u"}),
        chat({"type": "text", "text": "x", "cache_control": {"type": "ephemeral", "ttl": "5m"}}),
        chat({"type": "file", "file": {"file_id": "file-abc"}}),
        chat(audio={"voice": "alloy", "format": "wav"}, modalities=["text", "audio"]),
        chat(
            media_io_kwargs={"video": {"backend": "opencv"}}, mm_processor_kwargs={"images_kwargs": {"resample": "x"}}
        ),
        chat(cache_salt="/x/y", reasoning_effort="low", logit_bias={"1": 2}, vllm_xargs={"a": "b"}),
        InferenceRequest(operation=Operation.COMPLETION, model="m", body={"prompt": [1, 2], "prompt_token_ids": [[1]]}),
        media({"input": "x", "voice": "alloy", "response_format": "mp3", "speed": 1.5}),
        media({"prompt": "x", "size": "1024x1024", "image_size": "1024x1024", "output_format": "png"}),
        form(**{"timestamp_granularities[]": ["word"], "temperature": ["0"]}),
    ],
)
def test_accepts_settings_and_names_offline(request_: InferenceRequest) -> None:
    assert hosts_named(request_, OFFLINE) == frozenset()


@pytest.mark.parametrize("value", [URL, f" {URL}", "/etc/x", "file:/x", "..\\x", "~/x"])
@pytest.mark.parametrize("field", ["voice", "mm_processor_kwargs", "never_heard_of"])
def test_finds_references_in_unknown_fields(field: str, value: str) -> None:
    with pytest.raises(InvalidRequestError, match="BERTH_OFFLINE=1"):
        hosts_named(media({"input": "x", field: {"images": [value]} if field.endswith("kwargs") else value}), OFFLINE)


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "10.0.0.5", "192.168.1.1", "169.254.169.254", "100.100.100.200", "168.63.129.16", "0.0.0.0"),
        *("2130706433", "0x7f000001", "0177.0.0.1", "127.1", "127.0.0.1.", "1.2.3.4.5", "0x7f.1", "224.0.0.1"),
        *("[::1]", "[::]", "[fd00:ec2::254]", "[fe80::1]", "[::ffff:10.0.0.1]", "[::ffff:a9fe:a9fe]", "[2002:a00:1::]"),
        *("[64:ff9b::a00:1]", "[2001:0:a00:1::]", "[ff02::1]", "[1:2]"),
    ],
)
def test_rejects_private_addresses_in_every_form(host: str) -> None:
    with pytest.raises(InvalidRequestError, match="Send the content itself"):
        hosts_named(chat({"type": "image_url", "image_url": {"url": f"http://{host}/x.png"}}), ONLINE)


@pytest.mark.parametrize("host", ["93.184.215.14", "[2606:4700::1111]", "[::ffff:8.8.8.8]", "8.8.8.8:8080"])
def test_public_addresses_need_no_lookup(host: str) -> None:
    assert hosts_named(chat({"type": "image_url", "image_url": {"url": f"http://{host}/x"}}), ONLINE) == frozenset()


def test_accepts_listed_private_hosts() -> None:
    picture = {"type": "image_url", "image_url": {"url": "HTTP://10.0.0.5:9000/x?y#z"}}

    assert hosts_named(chat(picture), LISTED) == frozenset()


def test_limits_the_hosts_of_a_request() -> None:
    pictures = [{"type": "image_url", "image_url": {"url": f"https://h{place}.example/"}} for place in range(17)]

    assert len(hosts_named(chat(*pictures[:MOST_HOSTS]), ONLINE)) == MOST_HOSTS
    with pytest.raises(InvalidRequestError, match="refers to 17 hosts; up to 16 are allowed"):
        hosts_named(chat(*pictures), ONLINE)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://A.example.ORG./x y".replace(" ", "%20"), "a.example.org"),
        ("http://a_b.c", "a_b.c"),
        ("http://xn--mnchen-3ya.de?x", "xn--mnchen-3ya.de"),
        ("http://[::1]:80/", "[::1]"),
        ("http://x/\u6587.png", "x"),
        ("http://x/y z", None),
        ("http://", None),
    ],
)
def test_reads_the_host_of_a_url(url: str, host: str | None) -> None:
    assert host_of(url) == host


def test_error_names_the_param() -> None:
    with pytest.raises(InvalidRequestError) as rejected:
        hosts_named(chat({"type": "text", "text": "?"}, {"type": "image_url", "image_url": {"url": URL}}), OFFLINE)

    assert rejected.value.param == "messages.1.content.1.image_url.url"


@pytest.mark.parametrize(("address", "public"), [("8.8.8.8", True), ("64:ff9b::808:808", True), ("fe80::1%1", False)])
def test_recognises_public_addresses(address: str, public: bool) -> None:
    assert is_public(ip_address(address)) is public

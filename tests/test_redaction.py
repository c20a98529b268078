"""What is taken out of a text, what is left in it, and how long that takes."""

import hashlib
import json
import time
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from berth.redaction import MASK, NO_SECRET, Redactor, is_secret

SECRET = "correct/horse+battery staple"


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer sesame-and-more",
        "authorization: Basic dXNlcjpzZXNhbWUtYW5kLW1vcmU=",
        "{'x-api-key': 'sesame-and-more', 'accept': '*/*'}",
        "[(b'authorization', b'Bearer sesame-and-more'), (b'host', b'x')]",
        '{"Api-Key": "sesame-and-more"}',
        r"{\"api_key\": \"sesame-and-more\"}",
        "Set-Cookie: berth=sesame-and-more; HttpOnly",
        "HTTP_PROXY=http://user:sesame-and-more@proxy:3128",
        "git clone https://sesame-and-more@github.com/org/repo",
        "GET /v1/models?api_key=sesame-and-more&x=1",
        "https://bucket/x?X-Amz-Signature=sesame-and-more",
        "PGPASSWORD=sesame-and-more",
        '"client_secret": "sesame-and-more"',
        "hf_token=sesame-and-more",
        "--hf-token sesame-and-more",
        "-----BEGIN RSA PRIVATE KEY-----\nsesame-and-more\n-----END RSA PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\nsesame-and-more\n",
    ],
)
def test_masks_what_stands_where_secrets_stand(text: str) -> None:
    shown = Redactor().text(text)
    assert "sesame" not in shown
    assert "c2VzYW1l" not in shown
    assert MASK in shown


@pytest.mark.parametrize(
    "text",
    [
        '{"max_tokens": 16, "prompt_tokens": 5, "temperature": 0.5}',
        '{"token": "understanding", "logprob": -0.1}',
        "time_to_first_token_seconds 0.25",
        "https://huggingface.co/Qwen/Qwen3-8B",
        "mail to someone@example.org, see http://box:8000/ui/",
        "password: None, api_key: null",
        "The secret of a good password is its length.",
    ],
)
def test_leaves_the_rest(text: str) -> None:
    assert Redactor().text(text) == text


@pytest.mark.parametrize("form", [SECRET, json.dumps(SECRET)[1:-1], quote(SECRET, safe="")])
def test_known_values_are_masked_however_they_are_spelled(form: str) -> None:
    assert Redactor([SECRET, ""]).text(f"<{form}>") == f"<{MASK}>"


def test_of_two_known_values_the_longer_one_is_masked_as_a_whole() -> None:
    assert Redactor(["abcd", "abcdefgh"]).text("abcdefgh abcd") == f"{MASK} {MASK}"


def test_values_that_any_variable_may_have_are_left() -> None:
    assert Redactor(["true", "8192", "0.95"]).text("true 8192 0.95") == "true 8192 0.95"
    assert Redactor(["20261129"]).text("20261129") == MASK


@pytest.mark.parametrize("around", ["{}", "key {}.", "({})", '"{}"', "a={}&b=1"])
def test_keys_are_known_by_their_digests(around: str) -> None:
    key = "a-key-that-nobody-here-knows"
    redactor = Redactor(digests=[hashlib.sha256(key.encode()).hexdigest()])
    assert redactor.text(around.format(key)) == around.format(MASK)
    assert redactor.text("another-word-of-some-length") == "another-word-of-some-length"


@settings(max_examples=40)
@given(st.text(), st.text(min_size=4).filter(lambda value: NO_SECRET.fullmatch(value) is None), st.text())
def test_no_known_value_is_left(before: str, secret: str, after: str) -> None:
    masked = Redactor([secret]).text(before + secret + after)
    assert all(secret not in part for part in masked.split(MASK))


@pytest.mark.parametrize("piece", ["a-", "x", "http://", "?key", "api-key", "password ", "aB3_", "&a.", "token: "])
def test_long_texts_take_no_more_time_in_proportion(piece: str) -> None:
    redactor = Redactor(["a-known-value"], [hashlib.sha256(b"x").hexdigest()])

    def seconds(length: int) -> float:
        text, times = piece * (length // len(piece)), []
        for _ in range(4):
            began = time.perf_counter()
            redactor.text(text)
            times.append(time.perf_counter() - began)
        return min(times)

    assert seconds(80_000) < 100 * seconds(5_000) + 0.1  # 256 times as long if it were quadratic


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        *(
            (name, True)
            for name in ("authorization", "X-Api-Key", "cookie", "x-auth-token", "HF_TOKEN", "BERTH_API_KEYS")
        ),
        *((name, True) for name in ("DB_PASSWORD", "client_secret", "tls_key")),
        *((name, False) for name in ("content-type", "x-request-id", "max_tokens_per_s", "keyboard", "x-berth-model")),
    ],
)
def test_names_of_secrets(name: str, *, secret: bool) -> None:
    assert is_secret(name) is secret

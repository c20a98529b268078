"""Which values of an environment are secret."""

from pathlib import Path

import pytest

from berth.plan import Keys
from berth.plan.keys import digest
from berth.redaction import MASK
from berth.report.secrets import of_environment, passwords, redactor_of

SECRET = "s3same-open"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("BERTH_API_KEYS", f"{SECRET}, another-key"),
        ("BERTH_API_KEYS", f"alice: {{key: {SECRET}, models: [chat]}}"),
        ("BERTH_API_KEYS", f"alice: {{key: [other-key, '{SECRET}']}}"),
        ("BERTH_ADMIN_KEY", SECRET),
        ("HF_TOKEN", SECRET),
        ("BERTH_MODELS", f"chat: {{source: x, engines: [{{engine: remote, url: http://a, api_key: {SECRET}}}]}}"),
        ("BERTH_MODELS", f"chat: {{source: x, env: {{OTHER: {SECRET}}}}}"),
        ("BERTH_MODELS", f"chat: {{source: x, args: [--api-key, {SECRET}]}}"),
        ("BERTH_MODELS", f"chat: {{source: x, args: [--api-key={SECRET}]}}"),
        ("BERTH_MODELS", f"chat=http://me:{SECRET}@host/v1"),
        ("BERTH_MODELS", f"chat: [{{api_key: {SECRET}"),
        ("OTEL_EXPORTER_OTLP_HEADERS", f"x-team={SECRET},y=z"),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
        ("https_proxy", f"http://me:{SECRET}@proxy:3128"),
        ("GIT_REMOTE", f"https://{SECRET}@host/x"),
    ],
)
def test_secret_values_are_found(name: str, text: str) -> None:
    assert SECRET in set(of_environment({name: text}))


def test_files_of_secret_variables_are_read(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"alice: {{key: {SECRET}}}\n")
    assert SECRET in set(of_environment({"BERTH_API_KEYS_FILE": str(file)}))
    assert set(of_environment({"HF_TOKEN_FILE": str(tmp_path / "nothing")})) <= {""}


def test_what_is_no_secret_is_left(tmp_path: Path) -> None:
    environ = {
        "BERTH_MODELS": "chat=Qwen/Qwen3-8B",
        "BERTH_PORT": "8000",
        "PATH": "/usr/bin",
        "BERTH_TLS_KEY": "/x.pem",
    }
    assert list(of_environment(environ)) == []
    assert list(passwords("see http://host/x@y or me@example.org")) == []
    file = tmp_path / "key"
    file.write_text(SECRET)
    keys = f"alice: {{key_file: {file}}}"
    redactor = redactor_of(
        {"BERTH_MODELS": "m=x@sim", "BERTH_API_KEYS": keys}, Keys(api_keys=(), upstream_keys={"a": "up-key"})
    )
    assert redactor.text(f"m=x@sim {SECRET} up-key alice {file}") == f"m=x@sim {MASK} {MASK} alice {file}"


def test_the_words_of_a_mapping_of_keys_are_left() -> None:
    redactor = redactor_of({"BERTH_API_KEYS": f"alice: {{key: {SECRET}, models: [chat]}}"}, Keys())
    assert redactor.text("alice: models: [chat] priority: high") == "alice: models: [chat] priority: high"


def test_keys_are_masked_by_digest_when_the_configuration_is_invalid() -> None:
    redactor = redactor_of({"BERTH_PORT": "x"}, Keys(admin_key_digest=digest("a-key-of-the-operator")))
    assert redactor.text("a-key-of-the-operator") == MASK

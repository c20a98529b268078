"""From an environment to Settings: where values come from, and every problem at once."""

import contextlib
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.boot.config import parsers
from berth.boot.config.model_spec import ModelSpec
from berth.boot.config.settings import Origin, ResolvedValue, Settings, load, resolve, run_dir
from berth.boot.config.variables import VARIABLES, EnvVar
from berth.errors import ConfigError
from berth.plan import OpenTo
from tests.fakes.api_keys import api_keys

MODELS = {"BERTH_MODELS": "x/y"}
SPEC = ModelSpec(name="x/y", source="x/y")


def problems_of(environ: dict[str, str]) -> dict[str, str]:
    """Variable -> reason of every problem."""
    with pytest.raises(ConfigError) as caught:
        load(environ, cpus=1)
    assert caught.value.exit_code == 78
    return {problem.variable: problem.reason for problem in caught.value.problems}


def test_only_models_are_required() -> None:
    assert load(MODELS, cpus=1) == Settings(models=(SPEC,))


def test_every_variable_sets_its_field() -> None:
    environ = {
        **MODELS,
        "BERTH_HOST": "::1",
        "BERTH_PORT": "9000",
        "BERTH_WORKERS": "3",
        "BERTH_OFFLINE": "yes",
        "BERTH_API_KEYS": "a,b",
        "BERTH_ADMIN_KEY": "c",
        "HF_TOKEN": "d",
        "BERTH_MAX_BODY": "1MiB",
        "BERTH_START_TIMEOUT": "1h30m",
        "BERTH_LOG_FORMAT": "json",
        "PATH": "/bin",
    }
    assert load(environ, cpus=1) == Settings(
        models=(SPEC,),
        host="::1",
        port=9000,
        workers=3,
        offline=True,
        api_keys=api_keys("a", "b"),
        admin_key="c",
        hf_token="d",
        max_body_bytes=2**20,
        start_timeout_s=5400.0,
        log_format="json",
    )


@pytest.mark.parametrize(("cpus", "workers"), [(1, 1), (6, 3), (64, 4)])
def test_auto_workers_depend_on_cpus(cpus: float, workers: int) -> None:
    assert load(MODELS, cpus=cpus).workers == workers


def test_cpus_are_counted_by_default() -> None:
    assert 1 <= load(MODELS).workers <= 4


def test_an_empty_value_counts_as_not_set() -> None:
    environ = {**MODELS, "BERTH_PORT": "", "BERTH_API_KEYS": " ", "BERTH_MODELS_FILE": "", "BERTH_UNKNOWN": ""}
    assert load(environ, cpus=1) == Settings(models=(SPEC,))


@pytest.mark.parametrize("quote", ['"', "'"])
@pytest.mark.parametrize("var", VARIABLES, ids=lambda var: var.name)
def test_quotes_that_an_env_file_keeps_do_not_count(var: EnvVar, quote: str) -> None:
    needed = {
        "_TLS_": {"BERTH_TLS_CERT": "cert.pem", "BERTH_TLS_KEY": "key.pem"},
        "_NODE": {"BERTH_NODES": "10.0.0.1,10.0.0.2", "BERTH_NODES_KEY": "key-of-the-boxes"},
    }
    environ = MODELS | next((others for part, others in needed.items() if part in var.name), {})
    plain = load({**environ, var.name: var.example}, cpus=1)
    assert load({**environ, var.name: f" {quote}{var.example}{quote} "}, cpus=1) == plain


@pytest.mark.parametrize(
    ("text", "unquoted"),
    [
        ("""'{"m": "a/b"}'""", """{"m": "a/b"}"""),
        (""""{"m": "a/b"}\"""", """{"m": "a/b"}"""),
        (""""m": "a/b\"""", """"m": "a/b\""""),
        ("""'"x"'""", '"x"'),
        ('"', '"'),
        ('""', ""),
        ("'x\"", "'x\""),
    ],
)
def test_one_pair_of_quotes_around_the_whole_is_removed(text: str, unquoted: str) -> None:
    assert parsers.unquoted(text) == unquoted


@pytest.mark.parametrize("name", ["BERTH_API_KEYS", "BERTH_ADMIN_KEY", "HF_TOKEN", "BERTH_DATA", "BERTH_RUN_DIR"])
@pytest.mark.parametrize("text", ['"half', "half'", "'mixed\""])
def test_other_quotes_at_an_end_of_keys_and_paths_are_rejected(name: str, text: str) -> None:
    (reason,) = problems_of({**MODELS, name: text}).values()
    assert "begins or ends with a quote" in reason


def test_quotes_around_each_key_are_rejected() -> None:
    assert problems_of({**MODELS, "BERTH_API_KEYS": "'one','two'"}).keys() == {"BERTH_API_KEYS"}


def test_environment_overrides_given_defaults() -> None:
    defaults = {"BERTH_MODELS": "a/b", "BERTH_DATA": "/clone/data", "BERTH_PORT": "9000"}
    settings = load({"BERTH_PORT": "7000"}, defaults=defaults, cpus=1)
    assert (settings.models[0].name, settings.data_dir, settings.port) == ("a/b", "/clone/data", 7000)


@pytest.mark.parametrize("name", ["BERTH_MODELS", "BERTH_API_KEYS", "BERTH_ADMIN_KEY", "HF_TOKEN"])
def test_reads_secrets_and_models_from_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / "value"
    path.write_text("word\n")
    environ = {**MODELS, f"{name}_FILE": str(path)}
    if name == "BERTH_MODELS":
        del environ["BERTH_MODELS"]
    settings = load(environ, cpus=1)
    assert "word" in (settings.models[0].name, settings.admin_key, settings.hf_token) or (
        (settings.api_keys, settings.keys_file) == (api_keys("word"), str(path))
    )


def test_rejects_value_together_with_its_file(tmp_path: Path) -> None:
    path = tmp_path / "value"
    path.write_text("word\n")
    assert problems_of({**MODELS, "BERTH_MODELS_FILE": str(path)}) == {"BERTH_MODELS_FILE": "BERTH_MODELS is set too"}


def test_unreadable_file_is_one_problem(tmp_path: Path) -> None:
    environ = {"BERTH_MODELS_FILE": str(tmp_path / "no"), "HF_TOKEN_FILE": str(tmp_path)}
    assert problems_of(environ) == {
        "BERTH_MODELS_FILE": "cannot read the file: No such file or directory",
        "HF_TOKEN_FILE": "cannot read the file: Is a directory",
    }


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("BERTH_PROT", "unknown variable (did you mean BERTH_PORT)"),
        ("BERTH_API_KEY", "unknown variable (did you mean BERTH_API_KEYS)"),
        ("BERTH_MODEL_FILE", "unknown variable (did you mean BERTH_MODELS_FILE)"),
        ("BERTH_QXZ", "unknown variable"),
        ("BERTH_PORT_FILE", "only secrets, BERTH_MODELS and BERTH_ROUTES can be given as a file"),
        (
            "BERTH_PORT_8000_TCP_ADDR",
            "set by Kubernetes for a service named berth; set enableServiceLinks: false for the pod",
        ),
        (
            "BERTH_SERVICE_HOST",
            "set by Kubernetes for a service named berth; set enableServiceLinks: false for the pod",
        ),
    ],
)
def test_rejects_unknown_variable_without_its_value(name: str, reason: str) -> None:
    environ = {**MODELS, name: "s3cret"}
    assert problems_of(environ) == {name: reason}
    with pytest.raises(ConfigError) as caught:
        load(environ)
    assert "s3cret" not in str(caught.value)


def test_ignores_markers_of_berths_own_processes() -> None:
    environ = {**MODELS, "BERTH_REPLICA": "/run/berth:chat-vllm", "BERTH_APPLIANCE": "/run/berth"}
    assert load(environ, cpus=1) == load(MODELS, cpus=1)


def test_reports_all_problems_at_once() -> None:
    environ = {"BERTH_PORT": "x", "BERTH_PROT": "1", "BERTH_API_KEYS_FILE": "/nowhere/at/all", "BERTH_DATA": "/a\nb"}
    assert set(problems_of(environ)) == {
        "BERTH_MODELS",
        "BERTH_PORT",
        "BERTH_PROT",
        "BERTH_API_KEYS_FILE",
        "BERTH_DATA",
    }
    more = problems_of({"BERTH_MODELS": "{a: {context: x}, b: {}}", "BERTH_PORT": "x"})
    assert set(more) == {"BERTH_MODELS: a.context", "BERTH_MODELS: a.source", "BERTH_MODELS: b.source", "BERTH_PORT"}


def test_missing_variable_error_has_an_example() -> None:
    with pytest.raises(ConfigError) as caught:
        load({})
    assert str(caught.value).startswith("BERTH_MODELS: not set. Allowed: ")
    assert str(caught.value).endswith("Example: BERTH_MODELS=Qwen/Qwen3-8B")


@pytest.mark.parametrize("name", ["BERTH_API_KEYS", "BERTH_ADMIN_KEY", "HF_TOKEN"])
def test_invalid_secret_is_masked(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load({**MODELS, name: "s3crét"})
    assert "s3cr" not in str(caught.value)
    assert f"{name}='***'" in str(caught.value)


def test_secrets_are_not_in_the_repr() -> None:
    settings = load({**MODELS, "BERTH_API_KEYS": "s3cret1", "BERTH_ADMIN_KEY": "s3cret2", "HF_TOKEN": "s3cret3"})
    assert "s3cret" not in repr(settings)


def test_rejects_admin_key_among_api_keys() -> None:
    assert set(problems_of({**MODELS, "BERTH_API_KEYS": "a,b", "BERTH_ADMIN_KEY": "b"})) == {"BERTH_ADMIN_KEY"}


def test_rejects_values_that_are_not_utf8() -> None:
    assert problems_of({"BERTH_MODELS": "x/\udcff"}) == {"BERTH_MODELS": "not UTF-8 text"}


def test_resolve_returns_origins_and_masks_secrets(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("s3cret\n")
    environ = {"BERTH_MODELS": "m=http://a@vllm", "BERTH_API_KEYS_FILE": str(path), "HF_TOKEN": "s3cret"}
    values = resolve(environ, defaults={"BERTH_PORT": "9000"})
    assert list(values) == [var.name for var in VARIABLES]
    assert values["BERTH_API_KEYS"] == ResolvedValue(text="***", origin=Origin.FILE, path=str(path))
    assert values["HF_TOKEN"] == ResolvedValue(text="***", origin=Origin.ENVIRONMENT)
    assert values["BERTH_PORT"] == ResolvedValue(text="9000", origin=Origin.DEFAULT)
    assert values["BERTH_ADMIN_KEY"] == ResolvedValue(text="", origin=Origin.DEFAULT)
    assert "s3cret" not in str(values)


def test_resolve_masks_the_keys_in_models() -> None:
    environ = {"BERTH_MODELS": "{m: {engines: [{url: http://a, api_key: s3cret}]}}"}
    assert resolve(environ)["BERTH_MODELS"].text == "{m: {engines: [{url: http://a, api_key: ***}]}}"


def test_resolve_rejects_unreadable_files() -> None:
    with pytest.raises(ConfigError, match="BERTH_MODELS_FILE"):
        resolve({"BERTH_MODELS_FILE": "/nowhere/at/all"})


def test_run_dir_ignores_other_problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_dir({"BERTH_PORT": "x", "BERTH_UNKNOWN": "1"}) == "/run/berth"
    assert run_dir({"BERTH_RUN_DIR": "run"}) == str(tmp_path / "run")
    with pytest.raises(ConfigError, match="BERTH_RUN_DIR"):
        run_dir({"BERTH_RUN_DIR": "/a;b"})


NAMES = [var.name for var in VARIABLES] + ["BERTH_UNKNOWN"]


@given(st.dictionaries(st.sampled_from(NAMES), st.text(st.characters(exclude_characters="\x00"), max_size=30)))
def test_any_environment_is_read_or_rejected(environ: dict[str, str]) -> None:
    with contextlib.suppress(ConfigError):
        resolve(environ)  # passes: no other exception
    with contextlib.suppress(ConfigError):
        assert load(environ).models


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("public", None),
        ("none", ()),
        ("Images.example.ORG., 10.0.0.5\nminio images.example.org", ("images.example.org", "10.0.0.5", "minio")),
    ],
)
def test_reads_fetch_hosts(text: str, hosts: tuple[str, ...] | None) -> None:
    assert load({**MODELS, "BERTH_FETCH_HOSTS": text}).fetch_hosts == hosts


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (",", "no host given"),
        ("none,a.example", "public or none together with a host"),
        ("https://a.example", "give hosts alone"),
        ("a.example:80", "give hosts alone"),
        ("*.example", "give hosts alone"),
        ("a b!", "'b!' is not an address or a host name"),
        ("1.2.3", "'1.2.3' is not an address"),
    ],
)
def test_rejects_invalid_fetch_hosts(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(reason)):
        load({**MODELS, "BERTH_FETCH_HOSTS": text})


@pytest.mark.parametrize(
    ("text", "origins"),
    [
        ("", ("local",)),
        ("none", ()),
        (
            "local, HTTPS://Chat.example.org/\nhttp://[::1]:3000",
            ("local", "https://chat.example.org", "http://[::1]:3000"),
        ),
        (
            "* null http://*.example.org:* chrome-extension://*",
            ("*", "null", "http://*.example.org:*", "chrome-extension://*"),
        ),
    ],
)
def test_reads_cors_origins(text: str, origins: tuple[str, ...]) -> None:
    assert load({**MODELS, "BERTH_CORS_ORIGINS": text}).cors_origins == origins


@pytest.mark.parametrize(
    "text", ["example.org", "none,local", "https://a.example/path", "https://", "https://a.example:port", "//a", ","]
)
def test_rejects_invalid_cors_origins(text: str) -> None:
    with pytest.raises(ConfigError, match="BERTH_CORS_ORIGINS"):
        load({**MODELS, "BERTH_CORS_ORIGINS": text})


def test_rejects_fetch_hosts_when_offline() -> None:
    assert load({**MODELS, "BERTH_OFFLINE": "1", "BERTH_FETCH_HOSTS": "none"}).fetch_hosts == ()
    with pytest.raises(ConfigError, match="BERTH_OFFLINE=1 forbids engines to fetch"):
        load({**MODELS, "BERTH_OFFLINE": "1", "BERTH_FETCH_HOSTS": "a.example"})


def test_open_to_is_private_unless_chosen() -> None:
    assert load(MODELS).open_to is OpenTo.PRIVATE
    assert load({**MODELS, "BERTH_OPEN_TO": "ALL"}).open_to is OpenTo.ALL
    with pytest.raises(ConfigError, match=r"BERTH_OPEN_TO='public': unknown value\. Allowed: private, all, none"):
        load({**MODELS, "BERTH_OPEN_TO": "public"})


def test_open_to_none_needs_keys() -> None:
    assert load({**MODELS, "BERTH_OPEN_TO": "none", "BERTH_API_KEYS": "a-key"}).open_to is OpenTo.NONE
    with pytest.raises(
        ConfigError, match="BERTH_API_KEYS: not set, and BERTH_OPEN_TO=none allows no client without keys"
    ):
        load({**MODELS, "BERTH_OPEN_TO": "none"})


@pytest.mark.parametrize(
    ("text", "networks"),
    [
        ("", ()),
        ("none", ()),
        ("10.0.0.5, 172.18.0.0/16\nfd00::/8", ("10.0.0.5/32", "172.18.0.0/16", "fd00::/8")),
    ],
)
def test_reads_trusted_proxies(text: str, networks: tuple[str, ...]) -> None:
    assert load({**MODELS, "BERTH_TRUSTED_PROXIES": text}).trusted_proxies == networks


@pytest.mark.parametrize("text", ["nginx", "10.0.0.1/8", "10.0.0.0/99", "none,10.0.0.1", ","])
def test_rejects_invalid_trusted_proxies(text: str) -> None:
    with pytest.raises(ConfigError, match="BERTH_TRUSTED_PROXIES"):
        load({**MODELS, "BERTH_TRUSTED_PROXIES": text})


def test_tls_needs_certificate_and_key() -> None:
    both = {"BERTH_TLS_CERT": "/tls/cert.pem", "BERTH_TLS_KEY": "/tls/key.pem"}
    assert load({**MODELS, **both}).tls_key == "/tls/key.pem"
    for one, missing in (tuple(both), tuple(both)[::-1]):
        with pytest.raises(ConfigError, match=f"{missing}(.|\n)*not set, and {one} is"):
            load({**MODELS, one: both[one]})

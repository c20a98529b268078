"""From an environment to Settings: where values come from, and every problem at once."""

import contextlib
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.boot.config.model_spec import ModelSpec
from berth.boot.config.settings import Origin, ResolvedValue, Settings, load, resolve, run_dir
from berth.boot.config.variables import VARIABLES
from berth.errors import ConfigError

MODELS = {"BERTH_MODELS": "x/y"}
SPEC = ModelSpec(name="x/y", source="x/y")


def problems_of(environ: dict[str, str]) -> dict[str, str]:
    """Variable -> reason of every problem."""
    with pytest.raises(ConfigError) as caught:
        load(environ, cpus=1)
    assert caught.value.exit_code == 78
    return {problem.variable: problem.reason for problem in caught.value.problems}


def test_models_are_enough() -> None:
    assert load(MODELS, cpus=1) == Settings(models=(SPEC,))


def test_every_variable_finds_its_field() -> None:
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
        api_keys=("a", "b"),
        admin_key="c",
        hf_token="d",
        max_body_bytes=2**20,
        start_timeout_s=5400.0,
        log_format="json",
    )


@pytest.mark.parametrize(("cpus", "workers"), [(1, 1), (6, 3), (64, 4)])
def test_the_number_of_workers_follows_from_the_cpus(cpus: float, workers: int) -> None:
    assert load(MODELS, cpus=cpus).workers == workers


def test_the_cpus_are_counted_where_they_are_not_given() -> None:
    assert 1 <= load(MODELS).workers <= 4


def test_an_empty_value_counts_as_not_set() -> None:
    environ = {**MODELS, "BERTH_PORT": "", "BERTH_API_KEYS": " ", "BERTH_MODELS_FILE": "", "BERTH_UNKNOWN": ""}
    assert load(environ, cpus=1) == Settings(models=(SPEC,))


def test_other_defaults_may_be_given_and_lose_against_the_environment() -> None:
    defaults = {"BERTH_MODELS": "a/b", "BERTH_DATA": "/clone/data", "BERTH_PORT": "9000"}
    settings = load({"BERTH_PORT": "7000"}, defaults=defaults, cpus=1)
    assert (settings.models[0].name, settings.data_dir, settings.port) == ("a/b", "/clone/data", 7000)


@pytest.mark.parametrize("name", ["BERTH_MODELS", "BERTH_API_KEYS", "BERTH_ADMIN_KEY", "HF_TOKEN"])
def test_secrets_and_models_may_lie_in_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / "value"
    path.write_text("word\n")
    environ = {**MODELS, f"{name}_FILE": str(path)}
    if name == "BERTH_MODELS":
        del environ["BERTH_MODELS"]
    settings = load(environ, cpus=1)
    assert "word" in (settings.models[0].name, *settings.api_keys, settings.admin_key, settings.hf_token)


def test_a_value_and_its_file_exclude_each_other(tmp_path: Path) -> None:
    path = tmp_path / "value"
    path.write_text("word\n")
    assert problems_of({**MODELS, "BERTH_MODELS_FILE": str(path)}) == {"BERTH_MODELS_FILE": "BERTH_MODELS is set too"}


def test_a_file_that_cannot_be_read_is_one_problem(tmp_path: Path) -> None:
    environ = {"BERTH_MODELS_FILE": str(tmp_path / "no"), "HF_TOKEN_FILE": str(tmp_path)}
    assert problems_of(environ) == {
        "BERTH_MODELS_FILE": "the file cannot be read: No such file or directory",
        "HF_TOKEN_FILE": "the file cannot be read: Is a directory",
    }


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("BERTH_PROT", "no variable of Berth (did you mean BERTH_PORT)"),
        ("BERTH_API_KEY", "no variable of Berth (did you mean BERTH_API_KEYS)"),
        ("BERTH_MODEL_FILE", "no variable of Berth (did you mean BERTH_MODELS_FILE)"),
        ("BERTH_QXZ", "no variable of Berth"),
        ("BERTH_PORT_FILE", "only secrets and BERTH_MODELS can be given as a file"),
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
def test_an_unknown_variable_is_a_problem_and_its_value_is_not_shown(name: str, reason: str) -> None:
    environ = {**MODELS, name: "s3cret"}
    assert problems_of(environ) == {name: reason}
    with pytest.raises(ConfigError) as caught:
        load(environ)
    assert "s3cret" not in str(caught.value)


def test_what_berth_sets_for_its_own_processes_is_no_setting() -> None:
    environ = {**MODELS, "BERTH_REPLICA": "/run/berth:chat-vllm", "BERTH_APPLIANCE": "/run/berth"}
    assert load(environ, cpus=1) == load(MODELS, cpus=1)


def test_all_problems_come_at_once() -> None:
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


def test_a_missing_variable_says_what_to_write() -> None:
    with pytest.raises(ConfigError) as caught:
        load({})
    assert str(caught.value).startswith("BERTH_MODELS: not set. Allowed: ")
    assert str(caught.value).endswith("Example: BERTH_MODELS=Qwen/Qwen3-8B")


@pytest.mark.parametrize("name", ["BERTH_API_KEYS", "BERTH_ADMIN_KEY", "HF_TOKEN"])
def test_a_bad_secret_is_not_repeated(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load({**MODELS, name: "s3crét"})
    assert "s3cr" not in str(caught.value)
    assert f"{name}='***'" in str(caught.value)


def test_secrets_are_not_part_of_the_settings_text() -> None:
    settings = load({**MODELS, "BERTH_API_KEYS": "s3cret1", "BERTH_ADMIN_KEY": "s3cret2", "HF_TOKEN": "s3cret3"})
    assert "s3cret" not in repr(settings)


def test_the_operators_key_is_not_a_clients_key() -> None:
    assert set(problems_of({**MODELS, "BERTH_API_KEYS": "a,b", "BERTH_ADMIN_KEY": "b"})) == {"BERTH_ADMIN_KEY"}


def test_bytes_that_are_no_text_are_refused() -> None:
    assert problems_of({"BERTH_MODELS": "x/\udcff"}) == {"BERTH_MODELS": "not UTF-8 text"}


def test_resolve_tells_where_values_come_from_and_shows_no_secret(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("s3cret\n")
    environ = {"BERTH_MODELS": "m=http://a@vllm", "BERTH_API_KEYS_FILE": str(path), "HF_TOKEN": "s3cret"}
    values = resolve(environ, defaults={"BERTH_PORT": "9000"}).values
    assert list(values) == [var.name for var in VARIABLES]
    assert values["BERTH_API_KEYS"] == ResolvedValue(text="***", origin=Origin.FILE, path=str(path))
    assert values["HF_TOKEN"] == ResolvedValue(text="***", origin=Origin.ENVIRONMENT)
    assert values["BERTH_PORT"] == ResolvedValue(text="9000", origin=Origin.DEFAULT)
    assert values["BERTH_ADMIN_KEY"] == ResolvedValue(text="", origin=Origin.DEFAULT)
    assert "s3cret" not in str(values)


def test_resolve_masks_the_keys_in_models() -> None:
    environ = {"BERTH_MODELS": "{m: {engines: [{url: http://a, api_key: s3cret}]}}"}
    assert resolve(environ).values["BERTH_MODELS"].text == "{m: {engines: [{url: http://a, api_key: ***}]}}"


def test_resolve_needs_files_that_can_be_read() -> None:
    with pytest.raises(ConfigError, match="BERTH_MODELS_FILE"):
        resolve({"BERTH_MODELS_FILE": "/nowhere/at/all"})


def test_the_run_directory_can_be_read_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_dir({"BERTH_PORT": "x", "BERTH_UNKNOWN": "1"}) == "/run/berth"
    assert run_dir({"BERTH_RUN_DIR": "run"}) == str(tmp_path / "run")
    with pytest.raises(ConfigError, match="BERTH_RUN_DIR"):
        run_dir({"BERTH_RUN_DIR": "/a;b"})


NAMES = [var.name for var in VARIABLES] + ["BERTH_UNKNOWN"]


@given(st.dictionaries(st.sampled_from(NAMES), st.text(st.characters(exclude_characters="\x00"), max_size=30)))
def test_any_environment_is_read_or_refused(environ: dict[str, str]) -> None:
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
def test_hosts_to_fetch_from(text: str, hosts: tuple[str, ...] | None) -> None:
    assert load({**MODELS, "BERTH_FETCH_HOSTS": text}).fetch_hosts == hosts


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (",", "no host in it"),
        ("none,a.example", "public or none beside a host"),
        ("https://a.example", "give hosts alone"),
        ("a.example:80", "give hosts alone"),
        ("*.example", "give hosts alone"),
        ("a b!", "'b!' is neither an address nor a host name"),
        ("1.2.3", "'1.2.3' is neither"),
    ],
)
def test_what_is_no_host_to_fetch_from(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(reason)):
        load({**MODELS, "BERTH_FETCH_HOSTS": text})


def test_an_offline_box_fetches_from_nowhere() -> None:
    assert load({**MODELS, "BERTH_OFFLINE": "1", "BERTH_FETCH_HOSTS": "none"}).fetch_hosts == ()
    with pytest.raises(ConfigError, match="with BERTH_OFFLINE=1 nothing is fetched from anywhere"):
        load({**MODELS, "BERTH_OFFLINE": "1", "BERTH_FETCH_HOSTS": "a.example"})

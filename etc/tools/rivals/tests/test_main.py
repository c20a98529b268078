import pytest

from etc.tools.rivals.main import MILLION, parse
from etc.tools.rivals.routers import ROUTERS


def test_by_default_everything_is_compared() -> None:
    arguments = parse([])
    assert arguments.routers == list(ROUTERS)
    assert arguments.loads == ["requests", "streams"]
    assert (arguments.profile, arguments.scale, arguments.requests) == (False, False, None)


def test_some_routers_may_be_chosen() -> None:
    assert parse(["--routers", "berth,vllm-router"]).routers == ["berth", "vllm-router"]


def test_a_million_requests_need_no_number() -> None:
    assert parse(["--requests"]).requests == MILLION
    assert parse(["--requests", "5000"]).requests == 5000


@pytest.mark.parametrize("words", [["--routers", "envoy"], ["--loads", "a,b"], ["--profile", "--scale"]])
def test_what_does_not_exist_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(words)
    assert "error: argument" in capsys.readouterr().err

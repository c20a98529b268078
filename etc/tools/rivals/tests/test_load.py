import pytest

from etc.tools.rivals.failure import BenchError
from etc.tools.rivals.frames import Pace
from etc.tools.rivals.load import Load, generate, parse
from etc.tools.rivals.loads import requests, saturation, streams
from tests.fakes.ports import free_port

URL = ["--url", "http://127.0.0.1:1"]


@pytest.mark.parametrize(
    "load",
    [
        requests(3.5),
        streams(9),
        saturation(1),
        Load(connections=5, seconds=1, pace=Pace(tokens=2, first_ms=1, next_ms=3), stagger_s=7, warm=False),
    ],
)
def test_a_load_survives_its_command_line(load: Load) -> None:
    assert Load.parse(parse([*URL, *load.arguments()])) == load


def test_streams_are_as_many_as_fit_but_at_least_one() -> None:
    assert [streams(seconds).streams for seconds in (1, 4, 10, 20)] == [1, 1, 2, 5]


@pytest.mark.anyio
async def test_a_load_on_nobody_is_refused() -> None:
    with pytest.raises(BenchError, match="does not answer as it should"):
        await generate(f"http://127.0.0.1:{free_port()}", "none", Load(connections=1, seconds=1))

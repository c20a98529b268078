import pytest

from berth.engines.remote import RemoteEngine
from tests.fakes.orders import launch_order


def test_there_is_nothing_to_start() -> None:
    with pytest.raises(ValueError, match="attached"):
        RemoteEngine().launch(launch_order())

    assert RemoteEngine().overhead_bytes(gpus=1) == 0


def test_nobody_knows_how_many_requests_it_works_on() -> None:
    assert RemoteEngine().concurrency(launch_order()) is None

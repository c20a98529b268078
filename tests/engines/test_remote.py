import pytest

from berth.engines.remote import RemoteEngine
from tests.fakes.orders import launch_order


def test_attached_engine_cannot_be_started() -> None:
    with pytest.raises(ValueError, match="attached"):
        RemoteEngine().launch(launch_order())

    assert RemoteEngine().overhead_bytes(gpus=1) == 0


def test_concurrency_of_an_attached_engine_is_unknown() -> None:
    assert RemoteEngine().concurrency(launch_order()) is None

"""Which repositories are downloaded for a model."""

import pytest

from berth.boot.checkpoints.hub_files import HubModel, hub_models


def test_model_and_extra_sources() -> None:
    assert hub_models("org/chat", "v2", ("org/draft",), ()) == (
        HubModel(source="org/chat", revision="v2"),
        HubModel(source="org/draft"),
    )


def test_local_model_downloads_only_extra_sources() -> None:
    assert hub_models("/data/chat", None, ("org/draft",), ()) == (HubModel(source="org/draft"),)


@pytest.mark.parametrize(
    ("args", "wanted"),
    [
        (("--load-format", "mistral"), True),
        (("--config-format=mistral",), True),
        (("--tool-call-parser", "mistral"), False),
        (("--load-format", "auto", "mistral"), False),
        (("--load-format",), False),
    ],
)
def test_options_select_mistral_format(args: tuple[str, ...], wanted: bool) -> None:
    [model] = hub_models("org/chat", None, (), args)
    assert model.mistral is wanted

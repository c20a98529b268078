"""The tree in the docstring of errors.py, and the messages."""

import re
from collections.abc import Iterator

import pytest

from berth import errors
from berth.errors import ApiError, BerthError, ConfigError, PlacementError, Problem, shortened


def tree(cls: type[BerthError]) -> Iterator[type[BerthError]]:
    for child in cls.__subclasses__():
        yield child
        yield from tree(child)


@pytest.mark.parametrize("cls", [BerthError, *tree(BerthError)])
def test_docstring_lists_every_error_with_its_code(cls: type[BerthError]) -> None:
    line = re.search(rf"\b{cls.__name__}\b.*?(\d+|HTTP status)\n", errors.__doc__ or "")
    assert line, f"{cls.__name__} is not in the tree"
    code = "HTTP status" if cls is ApiError else str(cls.status if issubclass(cls, ApiError) else cls.exit_code)
    assert line[1] == code


def test_config_error_shows_all_problems() -> None:
    bad = Problem(
        variable="BERTH_PORT", value="x", reason="not a number", allowed="1 to 65535", example="BERTH_PORT=8000"
    )
    missing = Problem(variable="BERTH_MODELS", value="", reason="not set", allowed="models", example="BERTH_MODELS=a")
    text = str(ConfigError([bad, missing]))
    assert text.splitlines() == [
        "BERTH_PORT='x': not a number. Allowed: 1 to 65535. Example: BERTH_PORT=8000",
        "BERTH_MODELS: not set. Allowed: models. Example: BERTH_MODELS=a",
    ]


def test_placement_error_is_a_config_error() -> None:
    error = PlacementError("GPU 0: 80 GiB")
    assert (error.exit_code, str(error), error.problems) == (78, "GPU 0: 80 GiB", ())


def test_api_error_has_the_code_of_its_class_by_default() -> None:
    assert errors.ModelNotFoundError("no").code == "model_not_found"
    assert errors.NotReadyError("no", code="loading", retry_after_s=3).code == "loading"


@pytest.mark.parametrize("most", [20, 21, 200, 4000])
@pytest.mark.parametrize("length", [0, 1, 19, 20, 21, 22, 199, 200, 201, 100_000])
def test_shortened_keeps_the_beginning_and_the_end(most: int, length: int) -> None:
    text = "".join(chr(ord("a") + place % 26) for place in range(length))
    short = shortened(text, most)
    assert len(short) == min(length, most)
    assert (short == text) is (length <= most)
    assert text.startswith(short[: most // 2])
    assert text.endswith(short[-(most // 4) :])


def test_no_part_of_an_api_error_is_too_long() -> None:
    error = errors.InvalidRequestError(f"{'x' * 10**6}: send less.", param="p" * 10**6, code="c" * 10**6)
    assert len(error.message) == errors.LONGEST_MESSAGE
    assert error.message.endswith("x: send less.")
    assert (len(error.param or ""), len(error.code or "")) == (errors.LONGEST_NAME, errors.LONGEST_NAME)

from typing import Any

import pytest

from berth.apis.tool_arguments import arguments_object


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"city": "Paris"}', {"city": "Paris"}),
        (None, {}),
        ("", {}),
        (" \n", {}),
        ("null", {}),
        ("[1]", None),
        ('{"city": "Par', None),
    ],
)
def test_only_objects_and_missing_arguments_are_objects(text: str | None, expected: Any) -> None:
    assert arguments_object(text) == expected

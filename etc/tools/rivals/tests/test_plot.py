import xml.etree.ElementTree as ET

import pytest

from etc.tools.rivals import plot
from etc.tools.rivals.examples import comparison, measurement
from etc.tools.rivals.loads import REQUESTS
from etc.tools.rivals.plot import Axis, Panel

SVG = "{http://www.w3.org/2000/svg}"


def test_an_axis_goes_from_one_power_of_ten_to_another() -> None:
    axis = Axis.over([20.9, 243.0, 15_078.0])
    assert axis.marks == [10, 100, 1000, 10_000, 100_000]
    assert axis.x(100) - axis.x(10) == pytest.approx(axis.x(1000) - axis.x(100))


def test_an_axis_over_one_value_has_a_length() -> None:
    assert Axis.over([10.0]).marks == [10, 100]


def test_there_is_a_dot_for_each_round_and_no_row_for_what_has_no_figure() -> None:
    found = plot.panels(
        comparison(
            REQUESTS,
            [measurement("direct", cpu_s=0), measurement("berth", cpu_s=0.3)],
            [measurement("direct", cpu_s=0), measurement("berth", cpu_s=0.5)],
        )
    )
    assert [(panel.title, panel.rows) for panel in found] == [
        ("CPU per request, microseconds", (("berth", (300.0, 500.0)),))
    ]


def test_the_picture_is_xml_with_all_dots_and_escaped_names() -> None:
    panel = Panel(title="a < b", rows=(("berth", (1.0, 2.0)), ("x & y", (30.0,))))
    root = ET.fromstring(plot.svg([panel], "caption"))  # noqa: S314 - we wrote it
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert len(list(root.iter(f"{SVG}circle"))) == 3
    assert {"a < b", "x & y", "caption", "1.50", "30.0"} <= set(texts)

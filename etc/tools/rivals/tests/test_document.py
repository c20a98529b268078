import json

from etc.tools.rivals.document import document, summary
from etc.tools.rivals.examples import comparison, measurement, spread
from etc.tools.rivals.loads import REQUESTS
from etc.tools.rivals.saturation import Saturated


def test_the_document_holds_every_figure_of_every_round() -> None:
    found = comparison(REQUESTS, [measurement("berth", cpu_s=0.3)], [measurement("berth", cpu_s=0.5)])
    saturated = Saturated(measurement=measurement("berth", cpu_s=0.3), health=spread(1.0), health_failures=0)
    written = json.loads(json.dumps(document(found, [[saturated]], seconds=10, text="the table"), allow_nan=False))
    assert [round_[0]["whole_cost_us"] for round_ in written["rounds"][REQUESTS]] == [300, 500]
    assert written["rounds"][REQUESTS][0][0]["result"]["whole"]["p99"] == 2
    assert written["saturation"][0][0]["health"]["p50"] == 1
    assert written["routers"] == {"berth": {"version": "1", "command": "run berth"}}
    assert written["loads"][REQUESTS]["connections"] == 64
    assert written["machine"]["cpus"] >= 1
    assert written["text"] == "the table"


def test_what_is_no_number_is_null() -> None:
    found = comparison(REQUESTS, [measurement("direct", cpu_s=0), measurement("berth", cpu_s=0.3)])
    medians = summary(found, REQUESTS)
    assert medians["direct"]["cpu_us"] is None
    assert medians["berth"]["cpu_us"] == 300
    assert medians["berth"]["cpu_ratio"] is None

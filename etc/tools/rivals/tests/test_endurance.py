from etc.tools.rivals.endurance import Reading, growth, text


def reading(requests: int, megabytes: float) -> Reading:
    return Reading(requests=requests, failed=0, pss_bytes=int(1e6 * megabytes), open_files=90)


def test_growth_is_counted_from_the_end_of_the_warm_up() -> None:
    readings = [reading(0, 20), reading(50, 25), reading(100, 28), reading(600, 28.4), reading(1000, 28.9)]
    assert growth(readings) == "after 100 requests: +0.90 MB, that is +1000.00 bytes per request"


def test_one_reading_tells_nothing() -> None:
    assert growth([reading(0, 20), reading(100, 28)]) == "too few requests to tell whether it grows"


def test_every_reading_is_shown() -> None:
    shown = text([reading(0, 20), reading(300, 28), reading(2000, 28)])
    assert "2,000          0   28.00          90" in shown
    assert shown.endswith("+0.00 MB, that is +0.00 bytes per request")

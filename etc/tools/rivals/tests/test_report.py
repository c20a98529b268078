from etc.tools.rivals import report
from etc.tools.rivals.examples import comparison, measurement, spread
from etc.tools.rivals.loads import REQUESTS, STREAMS
from etc.tools.rivals.saturation import Saturated


def test_each_router_has_a_line_with_its_ratio() -> None:
    measured = [measurement("berth", cpu_s=0.3), measurement("vllm-router", cpu_s=0.2)]
    lines = report.load_table(comparison(REQUESTS, measured), REQUESTS).splitlines()
    assert lines[2].split()[:6] == ["berth", "300", "1.50x", "1.50x", "1.50x", "100"]
    assert lines[3].split()[:3] == ["vllm-router", "200", "1.00x"]


def test_the_budget_says_what_is_over() -> None:
    measured = [
        measurement("berth", cpu_s=0.3, tokens=10_000, first_ms=20.5),
        measurement("vllm-router", cpu_s=0.2, tokens=10_000, first_ms=20),
    ]
    cpu, first, memory = report.budget(comparison(STREAMS, measured))
    assert cpu == "CPU per token: 1.50x that of vllm-router, at most 1.00x: OVER"
    assert first == "first token p50: +0.50 ms beside vllm-router, under +1 ms: kept"
    assert memory == "memory of a worker: 30.0 MB PSS, under 70 MB: kept"


def test_a_budget_without_its_base_is_not_known() -> None:
    cpu, *_ = report.budget(comparison(REQUESTS, [measurement("berth", cpu_s=0.3)]))
    assert cpu.endswith(": not known")


def test_what_was_left_out_is_said() -> None:
    found = comparison(REQUESTS, [measurement("berth", cpu_s=0.3)])
    found.left_out["litellm"] = "it could not be installed"
    assert "litellm is left out: it could not be installed" in report.notes(found, 2)


def test_a_busy_upstream_and_failures_are_said() -> None:
    one = measurement("nginx", cpu_s=0.3, upstream_cpu_s=9.5, failures={"status 502": 3}, unfinished=1)
    lines = "\n".join(report.notes(comparison(REQUESTS, [one]), 2))
    assert "requests: nginx: the upstream used 95% of a CPU: it may be what set the pace" in lines
    assert "requests: nginx: 3 times: status 502" in lines
    assert "1 streams were cut" in lines
    assert "other programs kept up to 0.00 of 2 CPUs busy" in lines


def test_what_else_ran_on_the_machine_is_said() -> None:
    *_, last = report.notes(comparison(REQUESTS, [measurement("nginx", cpu_s=0.3)]), 2)
    assert last == "other programs kept up to 0.69 of 2 CPUs busy meanwhile"


def test_two_workers_are_compared_with_one() -> None:
    one = Saturated(measurement=measurement("berth", cpu_s=0.3), health=spread(2.0), health_failures=0)
    two = Saturated(measurement=measurement("berth, 2 workers", cpu_s=0.3), health=None, health_failures=3)
    lines = report.saturation_table([[one, two]]).splitlines()
    assert lines[2].split() == ["berth", "100", "1.00x", "300", "1.00", "2.00", "2.00", "4.00", "6.00", "0"]
    assert lines[3].split()[-4:] == ["-", "-", "-", "3"]


def test_the_text_has_all_parts() -> None:
    one = Saturated(measurement=measurement("berth", cpu_s=0.3), health=spread(2.0), health_failures=0)
    text = report.text(comparison(REQUESTS, [measurement("berth", cpu_s=0.3)]), [[one]], 8)
    for part in ("64 connections", "256 connections", "Berth and its budget", "Notes", "30.0 MB PSS"):
        assert part in text


def test_the_spread_of_the_rounds_ratios_is_shown() -> None:
    rounds = [[measurement("berth", cpu_s=cpu_s), measurement("vllm-router", cpu_s=0.2)] for cpu_s in (0.4, 0.2, 0.3)]
    line = report.load_table(comparison(REQUESTS, *rounds), REQUESTS).splitlines()[2]
    assert line.split()[2:5] == ["1.50x", "1.00x", "2.00x"]


def test_nothing_is_quoted_from_a_busy_machine() -> None:
    found = comparison(REQUESTS, [measurement("berth", cpu_s=0.3), measurement("vllm-router", cpu_s=0.2)])
    assert list(report.verdicts(found, 2)) == [
        "not quoted: other programs kept 0.69 of 2 CPUs busy, at most 0.20 may be"
    ]
    assert list(report.verdicts(found, 8)) == list(report.budget(found))

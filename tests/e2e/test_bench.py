"""`berth bench` on a whole appliance: two simulated engines, one much slower than the other."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from berth import admin_keys
from berth.cli import main as cli
from berth.plan import read_keys
from berth.records import results
from tests.e2e.appliance import Appliance, sim_models

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
SMALL = ("--rounds", "1", "--windows", "2", "--requests", "8", "--seconds", "0.2", "--concurrency", "2")
SECRET = "a text that is nowhere kept"


@pytest.fixture(scope="module")
def berth() -> Iterator[Appliance]:
    pauses = {"vllm": "10ms", "sglang": "60ms"}  # a busy machine adds tens of ms to each
    engines = (f"{dialect} --itl {itl} --prefix-cache" for dialect, itl in pauses.items())
    with Appliance(sim_models("m", *engines)) as appliance:
        yield appliance.wait_ready()


def bench(berth: Appliance, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """In this process."""
    for name, value in berth.environ.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        cli.main(["bench", *arguments])
    return int(str(ended.value.code))


@pytest.fixture(scope="module")
def measured(berth: Appliance, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Any, str]:
    """One run: exit code, JSON and HTML."""
    page = tmp_path_factory.mktemp("bench") / "report.html"
    assert berth.chat("m", messages=[{"role": "user", "content": SECRET}]).status_code == 200
    command = [sys.executable, "-m", "berth", "bench", "m", "--workload", "64/8", *SMALL, "--json", "--yes"]
    done = subprocess.run(
        [*command, "--html", str(page)], env=berth.environ, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 5, 6), done.stderr
    return done.returncode, json.loads(done.stdout), page.read_text()


def test_both_engines_are_measured_with_the_same_requests(measured: tuple[int, Any, str]) -> None:
    _code, found, _page = measured
    first, second = found["engines"]
    assert [one["engine"] for one in (first, second)] == ["vllm", "sglang"]
    for one in (first, second):
        (start,) = one["starts"]
        assert start["cold_s"] > 0
        assert len(start["windows"]) == 2
        for window in start["windows"]:
            assert window["exact_share"] == 1
            assert window["failures"] == 0
            assert window["cached_share"] == 0
    seeds = [[window["seed"] for window in one["starts"][0]["windows"]] for one in (first, second)]
    prompts = [[window["prompt_tokens"] for window in one["starts"][0]["windows"]] for one in (first, second)]
    assert seeds[0] == seeds[1]
    assert len(set(seeds[0])) == 2
    assert prompts[0] == prompts[1]


def test_berths_own_cost_is_measured_through_the_router(measured: tuple[int, Any, str]) -> None:
    _code, found, page = measured
    for one in found["engines"]:
        cost = one["own_cost"]
        assert cost["problem"] == ""
        assert cost["pairs"] >= 5
        assert cost["e2e"]["low"] <= cost["e2e"]["mean"] <= cost["e2e"]["high"]
    assert "Berth&#x27;s own cost" in page


def test_the_slower_engine_is_found(measured: tuple[int, Any, str]) -> None:
    _code, found, _page = measured
    speeds = {
        one["replica"]: one["ratio"] for one in found["comparisons"] if one["metric"] == "tpot p50 at 2 at a time"
    }
    assert speeds["m-sim-2"] > 1.5
    assert found["chosen"] == ""  # sizes of its own


def test_model_serves_again_and_the_result_is_kept(berth: Appliance, measured: tuple[int, Any, str]) -> None:
    berth.wait_ready()
    assert berth.chat("m", max_tokens=2).status_code == 200
    kept = results.all_of(str(berth.paths.data_dir))
    assert [one.id for one in kept] == [measured[1]["id"]]
    written = [path.read_bytes() for path in Path(berth.paths.data_dir).rglob("*") if path.is_file()]
    assert not any(SECRET.encode() in one for one in written)


def test_report_is_one_file_without_script_or_network(measured: tuple[int, Any, str]) -> None:
    page = measured[2]
    assert "<script" not in page
    assert re.findall(r"https?://(?!www\.w3\.org|127\.0\.0\.1)[^\s<]*", page) == []
    assert page.count("<svg") >= 4
    assert "64/8" in page


def test_client_that_is_the_limit_or_a_warm_cache_makes_it_invalid(
    berth: Appliance, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = ("--workload", "64/16", *SMALL[:8], "--rate", "40", "--max-connections", "1", "--reuse-prompts", "--yes")
    assert bench(berth, monkeypatch, "m", "--engines", "vllm", *wrong) == 6
    said = capsys.readouterr().out
    assert "F7" in said
    assert "F12: the client was the limit" in said
    assert bench(berth, monkeypatch, "show", str(results.numbers(str(berth.paths.data_dir))[-1])) == 6
    assert bench(berth, monkeypatch, "list") == 0
    assert "64/16" in capsys.readouterr().out


def admin(berth: Appliance, method: str, path: str, **body: Any) -> httpx.Response:
    key = admin_keys.make(read_keys(str(berth.paths.run_dir)).admin_secret, time.time() + 600)
    headers = {"authorization": f"Bearer {key}"}
    content = json.dumps(body) if body else None
    return httpx.request(method, f"{berth.url}/admin/{path}", headers=headers, content=content, timeout=60)


def operation(berth: Appliance, number: str) -> Any:
    return admin(berth, "GET", f"operations/{number}").json()["operation"]


def test_over_the_network_it_is_the_same_operation(berth: Appliance) -> None:
    berth.wait_ready()
    wanted: dict[str, Any] = {
        "model": "m", "engines": ["vllm"], "workload": "32/8", "rounds": 1, "windows": 1, "requests": 4,
        "seconds": 0.2, "concurrency": 2, "yes": True,
    }  # fmt: skip
    first = admin(berth, "POST", "bench", **wanted)
    assert first.status_code == 202, first.text
    number = first.json()["operation"]["id"]
    assert admin(berth, "POST", "bench", **wanted).json()["operation"]["id"] == number
    assert admin(berth, "POST", "bench", **{**wanted, "workload": "64/8"}).status_code == 409
    assert [one["id"] for one in admin(berth, "GET", "bench").json()["running"]] == [number]

    berth.wait(lambda: operation(berth, number)["state"] != "running", timeout_s=120)
    done = operation(berth, number)
    assert (done["state"], done["action"], done["bench"]["workload"]) == ("done", "lease", "32/8")
    assert done["progress"].startswith("m-sim: ")
    berth.wait(lambda: admin(berth, "GET", f"bench/{number}").status_code == 200)
    found = admin(berth, "GET", f"bench/{number}").json()
    assert [one["replica"] for one in found["engines"]] == ["m-sim"]
    rows = {one["operation"]: one["id"] for one in admin(berth, "GET", "bench").json()["results"]}
    assert admin(berth, "GET", f"bench/{rows[number]}").json() == found
    assert admin(berth, "GET", "bench/999").status_code == 404


def test_over_the_network_it_is_cancelled_and_says_why_it_fails(berth: Appliance) -> None:
    berth.wait_ready()
    failing = admin(berth, "POST", "bench", model="m", engines=["trtllm"], yes=True).json()["operation"]["id"]
    berth.wait(lambda: operation(berth, failing)["state"] != "running", timeout_s=120)
    assert operation(berth, failing)["state"] == "failed"
    assert "no such engine" in operation(berth, failing)["reason"]

    berth.wait_ready()
    long = admin(berth, "POST", "bench", model="m", yes=True).json()["operation"]["id"]
    berth.wait(lambda: "start 1" in operation(berth, long)["progress"] or operation(berth, long)["state"] != "running")
    assert operation(berth, long)["state"] == "running"
    assert admin(berth, "DELETE", f"operations/{long}").status_code in (200, 202)
    berth.wait(lambda: operation(berth, long)["state"] != "running", timeout_s=120)
    assert operation(berth, long)["state"] == "cancelled"
    berth.wait_ready()
    assert berth.chat("m", max_tokens=2).status_code == 200


def test_used_model_is_not_taken_from_its_clients_without_consent(
    berth: Appliance, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    berth.wait_ready()
    assert berth.chat("m", max_tokens=2).status_code == 200
    assert bench(berth, monkeypatch, "m") == 4
    assert "`--yes` measures all the same" in capsys.readouterr().err

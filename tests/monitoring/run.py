"""The dashboard and the alerts against Debian's Prometheus, which scrapes an appliance with simulated engines.

`make metrics-test`: each query must run, and find something, unless EMPTY says why not; each alert has a unit test in
alerts_test.yml in which it fires and resolves.
"""

import json
import operator
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.e2e.appliance import ROOT, Appliance, end, sim_models, wait_for
from tests.fakes.ports import free_port

DASHBOARDS = ROOT / "etc/grafana/provisioning/dashboards"
RULES = ROOT / "etc/prometheus/alerts.yml"
RULE_TESTS = Path(__file__).with_name("alerts_test.yml")
SCRAPE_S = 1
VARIABLES = {"$model": ".*", "$__rate_interval": "1m", "$__interval": "5s", "$__range": "1m"}

NO_GPU = "this machine may have no GPU"
NO_FULL_QUEUE = "no request was refused"
NOT_BROKEN = "the other engine continued each broken stream"
NO_SHADOW = "no shadow is on"
EMPTY = {  # panel and query -> why it finds nothing
    "Errors per second A": "the other engine answered each request that failed",
    "GPU memory A": NO_GPU,
    "GPU memory B": NO_GPU,
    "GPU utilisation A": NO_GPU,
    "GPU power A": NO_GPU,
    "GPU temperature A": NO_GPU,
    "GPU memory errors A": NO_GPU,
    "Days until the certificate ends A": "the appliance has no certificate",
    "Budgets of keys A": "no key has a budget",
    "Share of a migration's candidate A": "no migration runs",
    "Stay, and what a load takes A": "no model leaves for another one",
    "RAM for models that sleep A": "no model can sleep",
    "P50, P95, P99 by model, and by side of a migration B": "no migration runs",
    "Shadows per second A": NO_SHADOW,
    "Shadows per second B": NO_SHADOW,
    "Queued B": NO_FULL_QUEUE,
    "Broken streams B": NOT_BROKEN,
    "Broken streams C": "no model makes room for another one",
}


def main() -> int:
    for tool in ("prometheus", "promtool"):
        if shutil.which(tool) is None:
            sys.stderr.write(f"{tool} is missing. Install Debian's package: apt-get install prometheus\n")
            return 1
    promtool("check", "rules", str(RULES))
    promtool("test", "rules", str(RULE_TESTS))
    untested = set(alerts()) - tested_alerts()
    problems = [f"alert {name} has no test in which it fires and one in which it does not" for name in untested]
    engines = [f"{dialect} --ttft 20ms --itl 10ms" for dialect in ("vllm", "sglang")]
    collector = "http://127.0.0.1:9"  # where nothing listens: the spans are dropped
    routes = "[{name: any, priority: normal}]"
    variables = {
        "BERTH_AFFINITY": "0",
        "BERTH_ROUTES": routes,
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector,
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
    }
    with Appliance(sim_models("m", *engines, standby="hot"), **variables) as berth, prometheus(berth) as url:
        berth.wait(lambda: {one["status"] for one in berth.replicas().values()} == {"ready"})
        make_traffic(berth)
        fall_back(berth)
        promtool("check", "metrics", text=berth.get("/metrics").text)
        wait_for(
            lambda: bool(found(url, "increase(berth_fallbacks_total[1m]) > 0")), 15, lambda: "no fallback was scraped"
        )
        problems += judged(url)
    sys.stderr.writelines(f"{problem}\n" for problem in problems)
    sys.stdout.write(f"{len(queries())} queries, {len(alerts())} alerts, {len(problems)} problems\n")
    return 1 if problems else 0


def queries() -> dict[str, str]:
    """Those of all dashboards, with variables filled in, and those of the alerts."""
    filled: dict[str, str] = {}
    for path in sorted(DASHBOARDS.glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", ()):
                expression = target["expr"]
                for name, value in VARIABLES.items():
                    expression = expression.replace(name, value)
                filled[f"{panel['title']} {target['refId']}"] = expression
    return filled


def alerts() -> dict[str, str]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}


def tested_alerts() -> set[str]:
    """The alerts that fire in a test, and do not fire in one."""
    cases = [
        case for test in yaml.safe_load(RULE_TESTS.read_text())["tests"] for case in test.get("alert_rule_test", ())
    ]
    firing = {case["alertname"] for case in cases if case["exp_alerts"]}
    return firing & {case["alertname"] for case in cases if not case["exp_alerts"]}


def judged(url: str) -> list[str]:
    """One problem for each query that fails, or finds nothing without a reason, or something in spite of one."""
    problems = []
    for name, expression in queries().items():
        try:
            is_empty = not found(url, expression)
        except httpx.HTTPStatusError as error:
            problems.append(f"{name}: {error.response.text}")
            continue
        if is_empty and name not in EMPTY:
            problems.append(f"{name} finds nothing: {expression}")
        elif not is_empty and name in EMPTY and EMPTY[name] != NO_GPU:
            problems.append(f"{name} finds something, although {EMPTY[name]}")
    for name, expression in alerts().items():
        try:
            found(url, expression)
        except httpx.HTTPStatusError as error:
            problems.append(f"{name}: {error.response.text}")
    return [*problems, *(f"no query {name}" for name in EMPTY.keys() - queries().keys())]


def found(url: str, expression: str) -> list[Any]:
    """The series that a query finds now. HTTPStatusError for one that Prometheus rejects."""
    response = httpx.get(f"{url}/api/v1/query", params={"query": expression}, trust_env=False).raise_for_status()
    result: list[Any] = response.json()["data"]["result"]
    return result


def make_traffic(berth: Appliance) -> None:
    """Responses, streams, and a client's error, until both engines have said so."""
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            berth.chat("m", max_tokens=20)
            berth.chat("m", max_tokens=60, stream=True)
            berth.chat("m", temperature="hot")

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(2):  # each engine has said it twice, with more tokens the second time
            before = prompt_tokens(berth)
            berth.wait(lambda: all(map(operator.lt, before, prompt_tokens(berth))))  # noqa: B023 - called at once
        time.sleep(3 * SCRAPE_S)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def fall_back(berth: Appliance) -> None:
    """An engine dies with whole responses in flight: each of them is a fallback, whatever the other requests are."""
    threads = [threading.Thread(target=berth.chat, args=("m",), kwargs={"max_tokens": 300}) for _ in range(4)]
    for thread in threads:
        thread.start()
    berth.wait(lambda: berth.replicas()["m-sim"]["in_flight"] > 0)
    end(berth.find("sim", "--dialect", "vllm"))
    for thread in threads:
        thread.join()
    time.sleep(3 * SCRAPE_S)


def prompt_tokens(berth: Appliance) -> list[int]:
    """Of each engine, as it says; 0 where it has not."""
    return [(one["load"] or {}).get("prompt_tokens") or 0 for one in berth.replicas().values()]


@contextmanager
def prometheus(berth: Appliance) -> Iterator[str]:
    """Its URL. It scrapes the appliance as etc/prometheus/prometheus.yml says, but more often."""
    config = yaml.safe_load((RULES.parent / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": f"{SCRAPE_S}s", "evaluation_interval": f"{SCRAPE_S}s"}
    config["rule_files"] = [str(RULES)]
    config["scrape_configs"][0]["static_configs"] = [{"targets": [berth.url.removeprefix("http://")]}]
    vllm = {**config["scrape_configs"][0], "job_name": "as-vllm", "metrics_path": "/metrics/vllm"}
    config["scrape_configs"].append(vllm)
    with tempfile.TemporaryDirectory(prefix="berth-prometheus-") as folder:
        path = Path(folder, "prometheus.yml")
        path.write_text(yaml.safe_dump(config))
        promtool("check", "config", str(path))
        url = f"http://127.0.0.1:{free_port()}"
        options = [f"--config.file={path}", f"--storage.tsdb.path={folder}/data", "--log.level=warn"]
        process = subprocess.Popen(["prometheus", *options, f"--web.listen-address={url.removeprefix('http://')}"])
        try:
            wait_for(lambda: is_up(url), 60, lambda: "Prometheus does not find Berth's metrics")
            yield url
        finally:
            process.terminate()
            process.wait(20)


def is_up(url: str) -> bool:
    """Both pages were scraped."""
    try:
        return len(found(url, "up == 1")) == 2 and bool(found(url, "vllm:num_requests_running"))
    except (httpx.TransportError, httpx.HTTPStatusError):  # it starts
        return False


def promtool(*arguments: str, text: str = "") -> None:
    """CalledProcessError, after what it says, when it finds a fault."""
    subprocess.run(["promtool", *arguments], input=text, text=True, check=True)


if __name__ == "__main__":
    sys.exit(main())

"""Prometheus and Grafana beside Berth: they ask for what the router has, under the names it has."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from berth.apis.openai.chat import OpenaiChat
from berth.boot.config.settings import load
from berth.canonical import InferenceRequest, Operation, Usage
from berth.ipc.shadow import WIDTH
from berth.plan import ApiKey, Keys, RoutingRule, Tracing
from berth.router.app import DOCUMENTS
from berth.router.exchange.inflight import InflightRequest
from berth.router.exchange.outcomes import Outcome
from berth.router.exchange.request import RequestContext
from berth.router.telemetry.engine_metrics import VLLM
from berth.router.telemetry.key_metrics import budget_metric
from berth.router.telemetry.metrics import Meter, exposition, layout
from berth.router.telemetry.quantiles import Window
from berth.router.telemetry.shadow_metrics import shadow_metrics
from berth.router.telemetry.shared_counters import Scoreboard
from berth.state import Canary, Cause, ChangeKind, GpuState, HostState, ModelChanges, ReplicaStatus, State
from tests.fakes.key_board import key_board
from tests.fakes.router import make_plan, replica, replica_state
from tests.router.telemetry.test_engine_metrics import FULL

ROOT = Path(__file__).resolve().parents[2]
PROVISIONING = ROOT / "etc/grafana/provisioning"
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
DASHBOARD = json.loads((PROVISIONING / "dashboards/berth.json").read_text())
ALERTS = yaml.safe_load((ROOT / "etc/prometheus/alerts.yml").read_text())
PROMETHEUS = yaml.safe_load((ROOT / "etc/prometheus/prometheus.yml").read_text())
DATASOURCE = yaml.safe_load((PROVISIONING / "datasources/prometheus.yml").read_text())["datasources"][0]
PORT = load({"BERTH_MODELS": "m=x@sim"}, cpus=1).port

QUERIES = {
    f"{panel['title']} {query['refId']}": query for panel in DASHBOARD["panels"] for query in panel.get("targets", [])
}
RULES = {rule["alert"]: rule for group in ALERTS["groups"] for rule in group["rules"]}
EXPRESSIONS = {name: item["expr"] for name, item in {**QUERIES, **RULES}.items()}

METRIC = re.compile(r"\b(berth_\w+|up)\b(?:\{([^}]*)\})?")
GROUPING = re.compile(r"\bby \(([^)]*)\)")
LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"([^\"]*)\"")
FIELD = re.compile(r"{{(\w+)}}")

Series = dict[str, dict[str, set[str]]]  # metric -> label -> its values


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> Series:
    """What Prometheus sees of a router that has done everything; `up`, `job` and `instance` it adds itself."""
    one = replica("chat-vllm", "http://127.0.0.1:1")
    rules = (RoutingRule(name="batch", priority="low"),)
    plan = replace(make_plan("/run/berth", [one]), tracing=Tracing(endpoint="http://c/v1/traces"), rules=rules)
    path = tmp_path_factory.mktemp("board") / "scoreboard"
    Scoreboard.create(path, layout(plan), rows=1)
    board = Scoreboard(path, layout(plan))
    meter, window = Meter(board, key_board(board, plan, path.parent)), Window(plan, board.layout)
    window.keep(board.sums(window.span), 0.0)
    for status in (200, 424, 429, 500, 503, 529):
        ctx = RequestContext(OpenaiChat(), "x", cast("InflightRequest", None))
        ctx.accept(InferenceRequest(operation=Operation.CHAT, model="chat", body={}), plan.models[0])
        ctx.status, ctx.first_token_s, ctx.served_by, ctx.rule = status, 0.1, one, rules[0]
        ctx.usage = Usage(prompt_tokens=1, completion_tokens=1, cached_tokens=1)
        meter.observe(ctx)
    meter.attempt(one, Outcome.OK)
    gpu = GpuState(
        index=0,
        memory_used_bytes=1,
        memory_total_bytes=2,
        utilization_percent=50,
        power_watts=90.0,
        temperature_celsius=60,
    )
    ready = replica_state(one.name, ReplicaStatus.READY, load=FULL, start_phases={"load": 2.0})
    swap = ModelChanges(model="chat", change=ChangeKind.UNLOAD, why=Cause.SWAP, count=1, seconds=2.0)
    state = State(
        sequence=1,
        published_at=1.0,
        control_pid=1,
        replicas=(ready,),
        gpus=(gpu,),
        changes=tuple(replace(swap, change=kind) for kind in ChangeKind),
        canaries=(Canary(model="chat", replica=one.name, share=0.25, salt="s"),),
        run_dir_free_bytes=1 << 30,
        host=HostState(data_dir_free_bytes=1 << 40, tls_ends=1e9, sleep_budget_bytes=1 << 30),
    )
    keys = Keys(api_keys=(ApiKey(name="ci", slot=0, tokens_per_day=1000),))
    shadows = {"chat": tuple(1.0 for _cell in range(WIDTH))}
    clients = (budget_metric(keys, meter.keys), *shadow_metrics(shadows))
    latest = window.latest(board.sums(window.span))
    text = exposition(plan, board, state, {one.name: ready}, clients, latest=latest).decode()
    board.close()
    return {"up": {"job": {"berth"}, "instance": {f"berth:{PORT}"}}, **series(text)}


def series(text: str) -> Series:
    found: Series = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {"job": {"berth"}, "instance": {f"berth:{PORT}"}})
            for name, value in sample.labels.items():
                labels.setdefault(name, set()).add(value)
    return found


def labels_of(expression: str, exposed: Series) -> set[str]:
    return {label for name, _ in METRIC.findall(expression) for label in exposed[name]}


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_every_query_uses_exposed_metrics(name: str, exposed: Series) -> None:
    expression = EXPRESSIONS[name]
    asked = METRIC.findall(expression)
    assert asked
    for metric, selectors in asked:
        assert metric in exposed
        for label, value in LABEL.findall(selectors):
            assert label in exposed[metric], f"{metric} has no label {label!r}"
            if label != "model":  # chosen on the dashboard
                assert value in exposed[metric][label] or any(
                    re.fullmatch(value, one) for one in exposed[metric][label]
                )


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_every_query_groups_by_existing_labels(name: str, exposed: Series) -> None:
    expression = EXPRESSIONS[name]
    known = labels_of(expression, exposed)
    grouped = {label.strip() for labels in GROUPING.findall(expression) for label in labels.split(",")}
    assert grouped <= known
    if name in QUERIES:  # "by" leaves only its own labels for the legend
        assert set(FIELD.findall(QUERIES[name]["legendFormat"])) <= (grouped or known)


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_every_query_has_balanced_brackets(name: str) -> None:
    depth = 0
    pairs = {"(": 1, ")": -1, "{": 1, "}": -1, "[": 1, "]": -1}
    for character in EXPRESSIONS[name]:
        depth += pairs.get(character, 0)
        assert depth >= 0
    assert depth == 0


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_counters_are_always_rated(name: str) -> None:
    for counter in re.finditer(r"berth_\w+_(?:total|bucket)\b", EXPRESSIONS[name]):
        before = EXPRESSIONS[name][: counter.start()]
        assert before.endswith(("rate(", "increase(")), counter[0]


def test_every_exposed_metric_is_on_the_dashboard(exposed: Series) -> None:
    """A new metric that nobody can see is worth little. Sums and counts are parts of histograms."""
    shown = {name for query in QUERIES.values() for name, _ in METRIC.findall(query["expr"])}
    left_out = {name for name in exposed if not name.endswith(("_sum", "_count", "_created"))} - shown
    assert left_out == set()


def test_every_exposed_metric_is_documented(exposed: Series) -> None:
    """Buckets, sums and counts are parts of histograms, which stand there under their own name."""
    text = (ROOT / "docs/metrics.md").read_text()
    documented = set(re.findall(r"`((?:berth_|vllm:)\w+)`", text))
    ours = {re.sub(r"_(bucket|sum|count|created)$", "", name) for name in exposed} - {"up"}
    as_vllm = {f"vllm:{name}" for name in VLLM}
    assert documented == ours | as_vllm


def test_panels_have_unique_ids_and_do_not_overlap() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def datasources(tree: Any) -> Iterator[str]:
    if isinstance(tree, dict):
        if "datasource" in tree:
            yield tree["datasource"]["uid"]
        for value in tree.values():
            yield from datasources(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from datasources(value)


def test_every_panel_queries_the_provisioned_prometheus() -> None:
    assert set(datasources(DASHBOARD)) == {DATASOURCE["uid"]}
    for panel in DASHBOARD["panels"]:
        assert ("targets" in panel) is (panel["type"] != "row")


def test_dashboard_can_be_provisioned() -> None:
    assert DASHBOARD["uid"] == "berth"
    assert "id" not in DASHBOARD, "of another Grafana's database"
    assert [variable["name"] for variable in DASHBOARD["templating"]["list"]] == ["model"]
    assert "label_values(berth_requests_in_flight, model)" in json.dumps(DASHBOARD["templating"])


def test_prometheus_scrapes_a_path_without_a_key() -> None:
    (job,) = PROMETHEUS["scrape_configs"]
    assert DOCUMENTS[job["metrics_path"]][1] is False
    assert job["job_name"] == "berth"
    assert job["static_configs"] == [{"targets": [f"berth:{PORT}"]}]
    assert "berth" in COMPOSE["services"]
    assert PROMETHEUS["rule_files"] == ["alerts.yml"]
    assert DATASOURCE["jsonData"]["timeInterval"] == PROMETHEUS["global"]["scrape_interval"]


def test_grafana_queries_prometheus() -> None:
    assert DATASOURCE["url"] == "http://prometheus:9090"
    provider = yaml.safe_load((PROVISIONING / "dashboards/berth.yml").read_text())["providers"][0]
    mounted = {mount.split(":")[1] for mount in COMPOSE["services"]["grafana"]["volumes"]}
    assert provider["options"]["path"] in mounted


@pytest.mark.parametrize("name", ["prometheus", "grafana"])
def test_monitoring_is_optional_pinned_and_local(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["profiles"] == ["monitoring"]
    assert re.fullmatch(r"[a-z]+/[a-z]+:v?\d+\.\d+\.\d+", service["image"])
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert service["cap_drop"] == ["ALL"]
    for mount in service["volumes"]:
        source, _, options = mount.partition(":")
        assert source in COMPOSE["volumes"] or ((ROOT / source).is_dir() and options.endswith(":ro"))


def test_grafana_never_starts_with_the_default_password() -> None:
    service = COMPOSE["services"]["grafana"]
    assert service["environment"]["GF_SECURITY_ADMIN_PASSWORD"] == "${GRAFANA_PASSWORD:-}"
    shell, option, script = service["entrypoint"]
    assert (shell, option) == ("sh", "-c")
    assert script.startswith(': "$${GF_SECURITY_ADMIN_PASSWORD:?')
    assert script.endswith("exec /run.sh")


@pytest.mark.parametrize("name", RULES)
def test_alerts_have_cause_and_next_step(name: str, exposed: Series) -> None:
    rule = RULES[name]
    assert set(rule["annotations"]) == {"summary", "remedy"}
    grouped = {label.strip() for labels in GROUPING.findall(rule["expr"]) for label in labels.split(",")}
    used = set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])))
    assert used <= (grouped or labels_of(rule["expr"], exposed))


def test_no_label_is_reserved_for_other_kinds_of_metrics(exposed: Series) -> None:
    assert [name for name, labels in exposed.items() if "quantile" in labels] == []
    assert [name for name, labels in exposed.items() if "le" in labels and not name.endswith("_bucket")] == []

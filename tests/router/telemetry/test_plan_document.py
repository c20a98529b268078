"""/plan: what was decided, without secrets."""

from dataclasses import replace

import orjson

from berth.plan import Configured, Launch, MemoryEstimate, RoutingRule
from berth.router.telemetry.plan_document import document
from tests.fakes.router import make_plan, replica


def test_names_engine_reason_memory_and_command_of_each_replica() -> None:
    memory = MemoryEstimate(weights_bytes=1, kv_bytes_per_token=2, kv_bytes=3, overhead_bytes=4, largest_context=5)
    launch = Launch(argv=("vllm", "serve", "my model", "--api-key", "opensesame"), env={"TOKEN": "opensesame"})
    launch = replace(launch, notes=("tools: hermes (model type)",), files={"/x": "opensesame"})
    started = replace(
        replica("chat-a", "http://127.0.0.1:1"),
        launch=launch,
        memory=memory,
        origins={"weights": "measured"},
        reason="the fastest",
    )
    plan = make_plan("/run/x", [started, replica("chat-b", "http://127.0.0.1:2")])
    rule = RoutingRule(name="batch", path="/batch", priority="low")
    settings = (Configured(name="BERTH_PORT", value="9000", origin="environment"),)
    plan = replace(plan, configuration=settings, rules=(rule,))
    assert document(plan)["rules"] == [{"name": "batch", "if": {"path": "/batch"}, "then": {"priority": "low"}}]
    (model,) = document(plan)["models"]
    first, second = model["replicas"]
    assert first["command"] == "vllm serve 'my model' --api-key ***"
    assert (first["memory"]["kv_bytes"], first["origins"], first["reason"]) == (
        3,
        {"weights": "measured"},
        "the fastest",
    )
    assert first["notes"] == ["tools: hermes (model type)"]
    assert (second["command"], second["attached"], second["memory"]) == ("", True, None)
    assert document(plan)["configuration"] == [{"name": "BERTH_PORT", "value": "9000", "origin": "environment"}]
    assert b"opensesame" not in orjson.dumps(document(plan))

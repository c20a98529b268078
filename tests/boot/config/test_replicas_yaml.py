"""The field `replicas`."""

import pytest

from berth.boot.config.model_rules import Problems
from berth.boot.config.model_spec import ModelSpec
from berth.boot.config.model_yaml import parse_yaml
from berth.plan import Standby


def parsed(fields: str) -> tuple[tuple[ModelSpec, ...], list[tuple[str, str]]]:
    problems = Problems()
    models = parse_yaml(f"m: {{source: x/y, {fields}}}", problems)
    return models, [(one.variable.removeprefix("BERTH_MODELS: "), one.reason) for one in problems.found]


@pytest.mark.parametrize(
    ("fields", "counts", "standby"),
    [
        ("context: 8k", (1, 1), Standby.COLD),
        ("replicas: 1, engines: [vllm, sglang]", (1, 1), Standby.COLD),
        ("replicas: 3", (3, 3), Standby.HOT),
        ("replicas: 2, standby: hot", (2, 2), Standby.HOT),
        ("replicas: 2, gpus: [0, 1, 2, 3]", (2, 2), Standby.HOT),
        ("replicas: {min: 1, max: 3}", (3, 1), Standby.HOT),
        ("replicas: {max: 2}, engines: [vllm]", (2, 1), Standby.HOT),
    ],
)
def test_reads_how_many_there_are_and_how_many_at_the_start(
    fields: str, counts: tuple[int, int], standby: Standby
) -> None:
    (model,), problems = parsed(fields)
    assert problems == []
    assert ((model.replicas, model.replicas_at_start), model.standby) == (counts, standby)


@pytest.mark.parametrize(
    ("fields", "place", "reason"),
    [
        ("replicas: 0", "m.replicas", "out of range"),
        ("replicas: many", "m.replicas", "not a whole number"),
        ("replicas: [1, 2]", "m.replicas", "expected a single value"),
        ("replicas: {min: 1}", "m.replicas.max", "missing"),
        ("replicas: {min: 3, max: 2}", "m.replicas", "min is above max"),
        ("replicas: {min: 0, max: 2}", "m.replicas.min", "out of range"),
        ("replicas: {max: 2, most: 3}", "m.replicas.most", "unknown field"),
        ("replicas: 2, gpus: [0, 1, 2]", "m.gpus", "3 GPUs cannot be divided among 2 replicas"),
        ("replicas: 2, standby: cold", "m.standby", "all replicas serve"),
        ("replicas: 2, engines: [vllm, sglang]", "m.replicas", "replicas are copies of one engine that Berth starts"),
        ("replicas: 2, engines: ['http://a/v1']", "m.replicas", "replicas are copies of one engine that Berth starts"),
    ],
)
def test_rejects_what_makes_no_sense(fields: str, place: str, reason: str) -> None:
    _, problems = parsed(fields)
    assert [(where, why.startswith(reason)) for where, why in problems] == [(place, True)]

"""No stream ends in silence: whatever goes wrong in an engine, the client sees the end or an error."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.e2e.appliance import Appliance, sim_models

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

DONE = b"data: [DONE]\n\n"
DIALECTS = ("vllm", "sglang", "trtllm")
FAULTS: tuple[dict[str, Any], ...] = (
    {"reset-before": True},
    {"status": 503},
    {"null": True},
    {"hang-before": True},
    *({name: after} for after in (0, 3) for name in ("error-frame", "garbage-frame", "cut-after", "close-after")),
    *({name: 3} for name in ("reset-after", "stall-after", "truncated-chunk", "half-utf8")),
)


@pytest.fixture(scope="module")
def berth() -> Iterator[Appliance]:
    models = "\n".join(sim_models(dialect, f"{dialect} --ttft 0 --itl 0") for dialect in DIALECTS)
    with Appliance(models, BERTH_FIRST_TOKEN_TIMEOUT="2s", BERTH_TOKEN_TIMEOUT="2s") as appliance:
        yield appliance.wait_ready()


def stream(berth: Appliance, path: str, model: str) -> httpx.Response:
    asked = {"messages": [{"role": "user", "content": "Hello"}]} if "chat" in path else {"prompt": "Hello"}
    return berth.http.post(path, json={"model": model, "stream": True, "max_tokens": 40, **asked})


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_reports_every_fault(berth: Appliance, dialect: str, path: str) -> None:
    (replica,) = (replica for replica in berth.plan().replicas if replica.model == dialect)
    assert stream(berth, path, dialect).content.endswith(DONE)
    for fault in FAULTS:
        httpx.post(f"{replica.url}/sim/faults", json=fault, trust_env=False).raise_for_status()
        answer = stream(berth, path, dialect)
        httpx.delete(f"{replica.url}/sim/faults", trust_env=False).raise_for_status()
        if answer.status_code == 200:
            last = answer.content.removesuffix(b"\n\n").rpartition(b"\n\n")[2]
            assert last.startswith(b'data: {"error":'), (fault, answer.content[-300:])
            assert DONE not in answer.content, fault
        else:
            assert answer.json()["error"]["message"], fault
    assert stream(berth, path, dialect).content.endswith(DONE)

"""Sends mutated requests through the real router to simulated engines, and judges what comes back."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
import orjson

from berth.plan import DialectName, Task
from tests.fakes.router import RouterProcess
from tests.fakes.sims import box_of, model_name
from tests.fuzz.judging import problem
from tests.fuzz.mutation import requests

_TASKS = {
    "/v1/embeddings": Task.EMBED,
    "/api/embed": Task.EMBED,
    "/api/embeddings": Task.EMBED,
    "/v1/score": Task.RERANK,
    "/v1/classify": Task.RERANK,
    "/v1/rerank": Task.RERANK,
    "/v2/rerank": Task.RERANK,
    "/rerank": Task.RERANK,
}
_DIALECTS = (DialectName.VLLM, DialectName.SGLANG)
_NOISE = ("Traceback", "internal error", "response aborted")


@dataclass(slots=True)
class Findings:
    statuses: Counter[int] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


@contextmanager
def fuzzed_router() -> Iterator[RouterProcess]:
    with box_of(Task.GENERATE, Task.EMBED, Task.RERANK, dialects=_DIALECTS) as router:
        yield router


def send_mutants(router: RouterProcess, seed: int, count: int) -> Findings:
    found = Findings()
    with httpx.Client(base_url=router.url, timeout=20, trust_env=False) as client:
        for number, (path, body) in enumerate(requests(seed, count)):
            name = model_name(_TASKS.get(path, Task.GENERATE), _DIALECTS[number % len(_DIALECTS)])
            sent = body.replace(b'"model":"m"', b'"model":' + orjson.dumps(name))
            try:
                response = client.post(path, content=sent, headers={"content-type": "application/json"})
            except httpx.HTTPError as exc:
                found.problems.append(f"{path}: {exc!r}\n  {sent[:2000]!r}")
                continue
            found.statuses[response.status_code] += 1
            if wrong := problem(path, response):
                found.problems.append(f"{path}: {wrong}\n  {sent[:2000]!r}")
    found.problems += [f"in the log: {line}" for line in router.log.splitlines() if any(one in line for one in _NOISE)]
    found.problems += [f"ejected: {name}" for name in sorted(router.left_alone())]
    return found

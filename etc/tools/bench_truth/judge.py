"""Does `vllm bench serve` measure the same as `berth bench`? `make bench-judge`

Both ask the same simulated engine, in turn, for as many tokens by as many requests at a time. Its times are known, so
that a difference has an owner. Ends with 1 if one of them is more than 5 % from the other. Both are clients in Python
on the same machine as the engine: on a busy one they measure that.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from berth.bench.plan_points import Profile
from berth.plan import Replica
from berth.records.results import Point, Window
from etc.tools.bench_truth.__main__ import Check, measured, simulated

VLLM = Path(".engines/vllm/bin/vllm")
TOKENIZER = Path("models/tiny")
ROUNDS = 3
CONCURRENCY, REQUESTS = 8, 96
PROMPT, TOKENS = 64, 32
ENGINE = ("--itl", "40ms", "--itl-per-running", "1ms", "--ttft", "100ms")
PROFILE = Profile(requests=REQUESTS, per_place=1, few=REQUESTS, closed_s=0, open_s=0, warm_s=0, first_warm_s=0)
ALLOWED = 0.05

Figures = Mapping[str, float]


def by_berth(replica: Replica) -> Figures:
    (found,) = measured(replica, Point(concurrency=CONCURRENCY), profile=PROFILE)
    return figures_of(found)


def figures_of(found: Window) -> Figures:
    return {
        "time per token, ms": found.tpot["p50"].value * 1e3,
        "time to the first token, ms": found.ttft_sent["p50"].value * 1e3,
        "tokens of a request": found.output_tokens / (found.requests - found.failures),
        "requests that failed": float(found.failures),
    }


def by_vllm(url: str, name: str) -> Figures:
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(str(VLLM), "bench", "serve", "--backend", "openai", "--base-url", url, "--endpoint", "/v1/completions"),
            *("--model", name, "--tokenizer", str(TOKENIZER), "--dataset-name", "random", "--ignore-eos"),
            *("--random-input-len", str(PROMPT), "--random-output-len", str(TOKENS), "--num-prompts", str(REQUESTS)),
            *("--max-concurrency", str(CONCURRENCY), "--percentile-metrics", "ttft,tpot", "--disable-tqdm"),
            *("--save-result", "--result-dir", folder, "--result-filename", "found.json"),
        ]
        offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "NO_PROXY": "127.0.0.1"}
        done = subprocess.run(command, env=os.environ | offline, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"vllm bench serve ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        found = json.loads(Path(folder, "found.json").read_text())
    return figures_of_vllm(found)


def figures_of_vllm(found: Mapping[str, float]) -> Figures:
    return {
        "time per token, ms": found["median_tpot_ms"],
        "time to the first token, ms": found["median_ttft_ms"],
        "tokens of a request": found["total_output_tokens"] / found["completed"],
        "requests that failed": REQUESTS - found["completed"],
    }


def compared(own: Sequence[Figures], theirs: Sequence[Figures]) -> list[Check]:
    """Medians of the rounds. The engine's own times are the truth of neither: it may be late as well."""
    checks = []
    for name in ("time per token, ms", "time to the first token, ms", "tokens of a request"):
        ours, others = (median(one[name] for one in found) for found in (own, theirs))
        checks.append(Check(what=f"{name}: berth, next to vllm bench serve", found=ours, truth=others, most=ALLOWED))
    return checks


def main() -> int:
    if not VLLM.exists():
        print("bench-judge: there is no .engines/vllm: `make engine-vllm`")
        return 1
    own, theirs = list[Figures](), list[Figures]()
    with simulated(*ENGINE) as replica:
        for number in range(ROUNDS):
            theirs.append(by_vllm(replica.url, replica.served_name))
            own.append(by_berth(replica))
            print(f"round {number + 1}: vllm {theirs[-1]}\n         berth {own[-1]}", flush=True)
    checks = compared(own, theirs)
    for check in checks:
        print(check)
    failed = sum(one["requests that failed"] for one in (*own, *theirs))
    print(f"{failed:.0f} requests failed; the engine's own time per token is 48 ms")
    return 1 if failed or not all(check.ok for check in checks) else 0


if __name__ == "__main__":
    sys.exit(main())

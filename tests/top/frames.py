"""Numbers to show."""

from typing import Any

from berth.top.sources import Snapshot

NOW = 1000.0


def replica(name: str, status: str = "ready", **fields: Any) -> dict[str, Any]:
    return {"name": name, "status": status, "progress": None, "in_flight": 0, **fields}


def request(**fields: Any) -> dict[str, Any]:
    given = {"request": "abc", "start": 900.0, "phase": "over", "status": 200, "flags": [], "key": "alice"}
    given |= {"api": "openai", "model": "chat", "replica": "chat-vllm", "previous_replica": "", "error_code": ""}
    given |= {"first_token_s": 0.12, "duration_s": 3.4, "prompt_tokens": 120, "completion_tokens": 400, "frames": 0}
    return {**given, **fields}


def rates(**fields: Any) -> dict[str, Any]:
    given = {"in_flight": 0, "queue": 0, "requests_s": 0.0, "errors_s": 0.0, "tokens_in_s": 0.0, "tokens_out_s": 0.0}
    return {**given, "ttft_p50_s": None, "ttft_p95_s": None, **fields}


LOADING = {"phase": "load", "percent": 62.0}
STATUS = {
    "version": "0.2.0+g123",
    "notices": [{"kind": "errors", "text": "6 of 9 requests of chat failed in 5 min", "help": "berth logs"}],
    "models": [
        {
            "name": "chat",
            "replicas": [
                replica("chat-vllm", in_flight=3, latency={"first_token_s": {"p50": 0.11, "p95": 0.35}}),
                replica("chat-sglang", "standby", progress={"phase": "stop", "percent": None}),
            ],
        },
        {"name": "embed", "replicas": [replica("embed-vllm", "starting", progress=LOADING)]},
    ],
}
TRAFFIC = {
    "models": {
        "chat": rates(in_flight=3, tokens_out_s=1812.4, requests_s=1.2, ttft_p50_s=0.12, ttft_p95_s=12.0, errors_s=0.5),
        "embed": rates(tokens_out_s=2000.0, queue=2),
    },
    "replicas": {"chat-vllm": {"in_flight": 3, "kv": 0.41, "running": 3, "waiting": 0}},
    "gpus": [{"index": 0, "used": 60 << 30, "total": 80 << 30, "busy": 0.93, "watts": None}],
}
SNAPSHOT = Snapshot(
    at=NOW,
    status=STATUS,
    traffic=TRAFFIC,
    requests=(
        request(status=429, replica="", error_code="queue_full"),
        request(flags=["stream", "continued"], replica="chat-sglang", previous_replica="chat-vllm"),
    ),
    running=(request(phase="streaming", status=200, frames=77, model="running"),),
    lines=("first", "second"),
)

"""`berth capture`: starts and ends a capture, and shows what it found."""

import asyncio
import json
import sys
import time
from typing import Final

import msgspec

from berth.control.operations.commands import DENIED, show, who
from berth.ipc import traffic
from berth.ipc.capture import Capture, CaptureAction, Captured, CaptureRequest, Exchange, as_curl
from berth.ipc.control_socket import ask
from berth.ipc.operations import Request
from berth.plan import Plan, read_contract, read_plan
from berth.state import State

FORMS: Final = ("text", "curl", "json")
AWARE_S: Final = 3.0  # a worker that hangs is not waited for
_POLL_S: Final = 0.02


def run(run_dir: str, request: CaptureRequest, *, form: str) -> int:
    """Asks control, and prints its reply. ControlError when Berth does not run with this run directory."""
    plan = read_plan(run_dir)
    reply = asyncio.run(ask(plan.paths.control_socket, Request(capture=request, who=who())))
    if reply.denial is not None or reply.captured is None:
        show(reply, as_json=form == "json")
        return DENIED
    if request.action is CaptureAction.START:
        _wait_for_workers(plan)
    sys.stdout.write(shown(reply.captured, request.action, plan, form) + "\n")
    return 0


def _wait_for_workers(plan: Plan) -> None:
    """The next request of an operator is the one that is to be captured."""
    ends = time.monotonic() + AWARE_S
    while time.monotonic() < ends:
        state = read_contract(plan.paths.state, State.from_json)
        reports = traffic.read_reports(plan.paths.traffic, len(plan.replicas), len(plan.models))
        live = traffic.workers(plan.paths.heartbeats)
        act = traffic.all_act_by(reports, live, control_pid=state.control_pid, sequence=state.sequence)
        if state.capture is not None and act:
            return
        time.sleep(_POLL_S)


def shown(captured: Captured, action: CaptureAction, plan: Plan, form: str) -> str:
    if form == "json":
        return json.dumps(msgspec.to_builtins(captured), indent=2, ensure_ascii=False)
    if action is CaptureAction.SHOW:
        scheme = "https" if plan.listen.tls_cert else "http"
        url = f"{scheme}://localhost:{plan.listen.port}"
        return "\n".join(as_curl(one, url) if form == "curl" else as_text(one) for one in captured.exchanges)
    is_empty = action is CaptureAction.LIST and not captured.exchanges
    lines = ["no requests so far"] if is_empty else map(exchange_line, captured.exchanges)
    return "\n".join([as_line(captured.current), *lines])


def as_line(current: Capture | None) -> str:
    if current is None:
        return "nothing is being captured"
    return f"capturing {current.shown()} until {time.strftime('%H:%M:%S', time.localtime(current.ends))}"


def exchange_line(exchange: Exchange) -> str:
    at = time.strftime("%H:%M:%S", time.localtime(exchange.at))
    model, duration = exchange.model or "-", f"{exchange.duration_s:.2f} s"
    failures = f"  {len(exchange.failures)} failed attempts" if exchange.failures else ""
    return f"{at}  {exchange.id}  {exchange.key}  {model}  {exchange.status}  {duration}{failures}"


def as_text(exchange: Exchange) -> str:
    """Both sides in order: >> of the client, > to the engine, < of the engine, << to the client."""
    lines = [exchange_line(exchange), *exchange.failures, "", *exchange.request.lines(">>")]
    for attempt in exchange.attempts:
        lines += [f"--- {attempt.replica}", *attempt.request.lines(">")]
        lines += attempt.response.lines("<") if attempt.response else ["< no response", ""]
    lines += ["---", *(exchange.response.lines("<<") if exchange.response else ["<< no response"])]
    return "\n".join(lines)

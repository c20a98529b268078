"""The Plan as text for people: what goes where, how much memory it takes and why. Plain characters, 100 columns."""

import shlex
import textwrap
from collections.abc import Iterable

from berth.plan import Adapter, Gpu, ModelRoute, Plan, Replica, Standby
from berth.units import size

WIDTH = 100
BAR = 40


def plan_table(plan: Plan) -> str:
    """GPUs, then models with their replicas, then what the operator should know."""
    listen = plan.listen
    head = f"Berth will serve on http://{listen.host}:{listen.port} with {listen.workers} router worker(s)"
    blocks = [[head], _gpus(plan), *(_model(plan, route) for route in plan.models), _warnings(plan)]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _gpus(plan: Plan) -> list[str]:
    found = plan.inventory
    if not found.gpus:
        return _wrapped("GPUs: ", f"none. {found.reason}")
    lines = [f"GPUs (driver {found.driver_version or '?'}, CUDA {found.cuda_version or '?'})"]
    for gpu in found.gpus:
        lines += _gpu(plan, gpu)
    return lines


def _gpu(plan: Plan, gpu: Gpu) -> list[str]:
    head = f"  {gpu.index}  {gpu.name}  {size(gpu.memory_total_bytes)}, {size(gpu.memory_free_bytes)} free"
    if gpu.mig:
        return [f"{head}, cut into MIG instances: left out"]
    shares = list(_shares(plan, gpu))
    used = sum(share for _name, share in shares)
    filled = round(used * BAR)
    bar = f"     [{'#' * filled}{'.' * (BAR - filled)}] {used:.1%} planned"
    return [head, bar, *(f"       {share:>6.1%}  {name}" for name, share in shares)]


def _shares(plan: Plan, gpu: Gpu) -> Iterable[tuple[str, float]]:
    """A standby that is cold or asleep takes the place of another one, so only the largest of a model counts."""
    for route in plan.models:
        here = [plan.replica(name) for name in route.replicas]
        here = [replica for replica in here if gpu.index in replica.gpus]
        if route.standby == Standby.HOT:
            yield from ((replica.name, replica.memory_fraction or 0) for replica in here)
        elif here:
            yield " or ".join(replica.name for replica in here), max(replica.memory_fraction or 0 for replica in here)


def _model(plan: Plan, route: ModelRoute) -> list[str]:
    aliases = f", also called {', '.join(route.aliases)}" if route.aliases else ""
    lines = [f"{route.name}{aliases}", f"  source    {route.source}", f"  task      {route.task}"]
    lines += [f"  adapter   {adapter.name}: {adapter.source}{_rank(adapter)}" for adapter in route.adapters]
    if route.context:
        lines.append(f"  context   {route.context} tokens")
    for name in route.replicas:
        lines += _replica(plan.replica(name))
    return lines


def _rank(adapter: Adapter) -> str:
    return f" (rank {adapter.rank})" if adapter.rank else ""


def _replica(replica: Replica) -> list[str]:
    lines = [f"  {replica.name}"]
    lines += _wrapped("    engine   ", f"{replica.engine} ({replica.reason})")
    lines += _wrapped("    where    ", _where(replica))
    if replica.memory:
        memory = replica.memory
        total = f"{size(memory.total_bytes)} = weights {size(memory.weights_bytes)} + KV cache {size(memory.kv_bytes)}"
        each = " per GPU" if len(replica.gpus) > 1 else ""
        lines += _wrapped("    memory   ", f"{total} + overhead {size(memory.overhead_bytes)}{each}")
        lines += _wrapped("    context  ", _context(replica, memory.kv_bytes_per_token, memory.largest_context))
    if replica.sleep:
        lines += _wrapped("    asleep   ", _asleep(replica))
    if replica.launch and replica.launch.own_env:
        lines += _wrapped("    env      ", " ".join(f"{name}=***" for name in replica.launch.own_env))
    if replica.launch:
        lines += _wrapped("    command  ", shlex.join(replica.launch.argv), breaker=" \\")
    return lines


def _where(replica: Replica) -> str:
    if replica.launch is None:
        return f"attached: {replica.url} as {replica.served_name!r}"
    if not replica.gpus:
        return f"CPU, {replica.url}"
    numbers = ", ".join(map(str, replica.gpus))
    fraction = f", {replica.memory_fraction:.1%} of its memory" if replica.memory_fraction else ""
    return f"GPU {numbers}{fraction}, {replica.url}"


def _asleep(replica: Replica) -> str:
    if not replica.gpus:
        return "it stops its work and gives no memory back: that is for GPUs"
    kept = f"{size(replica.memory.weights_bytes * len(replica.gpus))} of weights" if replica.memory else "weights"
    return f"{kept} in the machine's memory; it is loaded first, put to sleep, and gives the GPU memory back"


def _context(replica: Replica, per_token: int, largest: int) -> str:
    if not per_token:
        return f"{replica.context} tokens; it keeps no KV cache"
    return f"{replica.context} tokens at {per_token / 1024:.1f} KiB each; up to {largest} would fit"


def _warnings(plan: Plan) -> list[str]:
    if not plan.warnings:
        return []
    return ["Warnings", *(line for warning in plan.warnings for line in _wrapped("  - ", warning))]


def _wrapped(label: str, text: str, *, breaker: str = "") -> list[str]:
    """`text` after the label, continued below itself; `breaker` ends each line that goes on."""
    room = WIDTH - len(label) - len(breaker)
    lines = textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False) or [""]
    ended = [*(line + breaker for line in lines[:-1]), lines[-1]]
    return [(label if number == 0 else " " * len(label)) + line for number, line in enumerate(ended)]

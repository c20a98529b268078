"""The Plan as text for people: engines, GPUs, memory, and the reasons. Plain characters, 100 columns."""

import shlex
import textwrap
from datetime import UTC, datetime

from berth.plan import MemoryEstimate, Plan, Replica, Standby
from berth.units import size

WIDTH = 100
BAR = 40


def plan_table(plan: Plan) -> str:
    """GPUs, then models with their replicas, then warnings."""
    listen = plan.listen
    head = f"Berth will serve on http://{listen.host}:{listen.port} with {listen.workers} router worker(s)"
    blocks = [[head], _gpus(plan)]
    for route in plan.models:
        aliases = f", also called {', '.join(route.aliases)}" if route.aliases else ""
        lines = [f"{route.name}{aliases}", f"  source    {route.source}", f"  task      {route.task}"]
        for adapter in route.adapters:
            rank = f" (rank {adapter.rank})" if adapter.rank else ""
            lines.append(f"  adapter   {adapter.name}: {adapter.source}{rank}")
        if route.context:
            lines.append(f"  context   {route.context} tokens")
        blocks.append([*lines, *(line for name in route.replicas for line in _replica(plan.replica(name)))])
    if plan.warnings:
        blocks.append(["Warnings", *(line for warning in plan.warnings for line in _wrapped("  - ", warning))])
    return "\n\n".join("\n".join(block) for block in blocks)


def _gpus(plan: Plan) -> list[str]:
    found = plan.inventory
    if not found.gpus:
        return _wrapped("GPUs: ", f"none. {found.reason}")
    lines = [f"GPUs (driver {found.driver_version or '?'}, CUDA {found.cuda_version or '?'})"]
    for gpu in found.gpus:
        head = f"  {gpu.index}  {gpu.name}  {size(gpu.memory_total_bytes)}, {size(gpu.memory_free_bytes)} free"
        if gpu.mig:
            lines.append(f"{head}, MIG is on, without an instance: not used")
            continue
        shares = []
        for route in plan.models:
            replicas = [one for one in map(plan.replica, route.replicas) if gpu.index in one.gpus]
            fractions = [one.memory_fraction or 0 for one in replicas]
            if route.standby == Standby.HOT:
                shares += [(one.name, share) for one, share in zip(replicas, fractions, strict=True)]
            elif replicas:  # they share their memory, so only the largest counts
                shares.append((" or ".join(one.name for one in replicas), max(fractions)))
        used = sum(share for _name, share in shares)
        filled = round(used * BAR)
        bar = f"     [{'#' * filled}{'.' * (BAR - filled)}] {used:.1%} planned"
        lines += [head, bar, *(f"       {share:>6.1%}  {name}" for name, share in shares)]
    return lines


def _replica(replica: Replica) -> list[str]:
    if replica.launch is None:
        where = f"attached: {replica.url}{replica.api_path} as {replica.served_name!r}"
    elif replica.gpus:
        fraction = f", {replica.memory_fraction:.1%} of its memory" if replica.memory_fraction else ""
        where = f"GPU {', '.join(map(str, replica.gpus))}{fraction}, {replica.url}"
    else:
        where = f"CPU, {replica.url}"
    lines = [f"  {replica.name}"]
    lines += _wrapped("    engine   ", f"{replica.kind} ({replica.reason})")
    lines += _wrapped("    where    ", where)
    if replica.memory:
        lines += memory_lines(replica.memory, context=replica.context, gpus=len(replica.gpus))
    elif replica.attached and replica.context:
        slots = f", {replica.concurrency} requests at once" if replica.concurrency else ""
        lines += _wrapped("    context  ", f"{replica.context} tokens{slots}")
    if replica.sleep:
        kept = f"{size(replica.memory.weights_bytes * len(replica.gpus))} of weights" if replica.memory else "weights"
        asleep = f"{kept} in RAM; it is loaded first, then put to sleep, which releases the GPU memory"
        no_gpu = "it stops working and releases no memory: it has no GPU"
        lines += _wrapped("    asleep   ", asleep if replica.gpus else no_gpu)
    if replica.launch and replica.launch.own_env:
        lines += _wrapped("    env      ", " ".join(f"{name}=***" for name in replica.launch.own_env))
    if replica.launch:
        notes = (note.partition(": ") for note in replica.launch.notes)
        lines += [line for what, _, choice in notes for line in _wrapped(f"    {what:<8} ", choice)]
        lines += _wrapped("    command  ", shlex.join(replica.launch.argv), breaker=" \\")
    return lines


def memory_lines(memory: MemoryEstimate, *, context: int | None, gpus: int) -> list[str]:
    """What a replica takes on each GPU, and what its KV cache holds."""
    total = f"{size(memory.total_bytes)} = weights {size(memory.weights_bytes)} + KV cache {size(memory.kv_bytes)}"
    each = " per GPU" if gpus > 1 else ""
    since = f" (measured {date(memory.measured)})" if memory.measured else ""
    lines = _wrapped("    memory   ", f"{total} + overhead {size(memory.overhead_bytes)}{each}{since}")
    if not memory.kv_tokens:
        return [*lines, *_wrapped("    context  ", f"{context} tokens; it has no KV cache")]
    fixed = f" and {size(memory.kv_bytes_per_request)} per request" if memory.kv_bytes_per_request else ""
    room = f"the KV cache holds {memory.kv_tokens} tokens; up to {memory.largest_context} would fit"
    per_token = f"{context} tokens at {memory.kv_bytes_per_token / 1024:.1f} KiB each"
    return [*lines, *_wrapped("    context  ", f"{per_token}{fixed}; {room}")]


def date(moment: int) -> str:
    """2026-11-29, in UTC."""
    return datetime.fromtimestamp(moment, tz=UTC).date().isoformat()


def _wrapped(label: str, text: str, *, breaker: str = "") -> list[str]:
    """`text` after the label, with a hanging indent; `breaker` ends each line that continues."""
    width = WIDTH - len(label) - len(breaker)
    lines = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]
    ended = [*(line + breaker for line in lines[:-1]), lines[-1]]
    return [(label if number == 0 else " " * len(label)) + line for number, line in enumerate(ended)]

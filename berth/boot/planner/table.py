"""The Plan as text for people: engines, GPUs, memory, and what decided about each. Plain characters, 100 columns."""

import shlex
import textwrap

from berth.plan import MemoryEstimate, Nodes, Plan, Replica, Standby
from berth.room import WHOLE, conflicts
from berth.units import size

WIDTH = 100
BAR = 40
LABEL = 14  # columns for the name of a figure
VALUE = 38  # and for the figure; what decided about it follows
SMALL_BAR = 20

Row = tuple[str, str, str]  # a figure's name, the figure, and what decided about it


def plan_table(plan: Plan) -> str:
    """GPUs, then models with their replicas, then warnings."""
    listen = plan.listen
    head = f"Berth will serve on {listen.url()} with {listen.workers} router worker(s)"
    blocks = [[head], *([box_lines(plan, plan.nodes)] if plan.nodes else []), _gpus(plan)]
    for route in plan.models:
        aliases = f", also called {', '.join(route.aliases)}" if route.aliases else ""
        lines = [f"{route.name}{aliases}", f"  source    {route.source}", f"  task      {route.task}"]
        for adapter in route.adapters:
            rank = f" (rank {adapter.rank})" if adapter.rank else ""
            lines.append(f"  adapter   {adapter.name}: {adapter.source}{rank}")
        if route.context:
            lines.append(f"  context   {route.context:,} tokens")
        lines.append(f"  load      {route.load}{', pinned' if route.pin else ''}")
        if route.at_start:
            lines.append(f"  replicas  {route.at_start} at the start, up to {len(route.replicas)}")
        blocks.append(lines)
        blocks += [_replica(plan.replica(name), route.standby) for name in route.replicas]
    if found := conflicts(plan.room, plan.models):
        shared = [line for one in found for line in _wrapped("  - ", str(one))]
        blocks.append(["Loaded in turn, by requests", *shared])
    if plan.rules:
        lines = [line for one in plan.rules for line in _wrapped("  - ", f"{one.name}: {one}")]
        blocks.append(["Rules: the first that matches decides", *lines])
    if plan.warnings:
        blocks.append(["Warnings", *(line for warning in plan.warnings for line in _wrapped("  - ", warning))])
    return "\n\n".join("\n".join(block) for block in blocks)


def box_lines(plan: Plan, nodes: Nodes) -> list[str]:
    """Each box, its GPUs, and the ranks that it has."""
    answered = {box.rank: box for box in plan.boxes}
    own = tuple((gpu.name, gpu.memory_total_bytes, gpu.memory_free_bytes) for gpu in plan.inventory.gpus)
    spread = [one for one in plan.replicas if one.ranks]
    lines = ["Boxes (BERTH_NODES)"]
    for rank, node in enumerate(nodes.boxes):
        box = answered.get(rank)
        gpus = own
        note = f"this box, on {nodes.interface}"
        if box is not None:
            note = "answers"
            gpus = tuple((gpu.name, gpu.memory_total_bytes, gpu.memory_free_bytes) for gpu in box.gpus)
        elif rank != nodes.rank:
            note, gpus = "does not answer yet: planned like this box, and compared before the start", ()
        lines += _wrapped(f"  {rank}  ", f"{node}  {note}")
        lines += [f"       {name}  {size(total)}, {size(free)} free" for name, total, free in gpus]
        for one in spread:
            each = size(one.memory.total_bytes) if one.memory else "its part of the model"
            part = f"rank {rank}{' (head)' if rank == 0 else ''}: {each}"
            lines.append(f"       {one.name}  {part}{f' on each of {len(one.gpus)} GPU(s)' if one.gpus else ''}")
    return lines


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
        shares, sharing = [], 0.0
        for route in plan.models:
            replicas = [one for one in map(plan.replica, route.replicas) if gpu.index in one.gpus]
            fractions = [one.memory_fraction or 0 for one in replicas]
            if route.standby == Standby.HOT:
                shares += [(one.name, share) for one, share in zip(replicas, fractions, strict=True)]
            elif replicas:  # they share their memory, so only the largest counts
                shares.append((" or ".join(one.name for one in replicas), max(fractions)))
            sharing += route.room.get(gpu.index, 0) / WHOLE
        room = plan.room.get(gpu.index, 0) / WHOLE
        used = sum(share for _name, share in shares) - max(sharing - room, 0)
        bar = f"     [{_bar(used, BAR):.<{BAR}}] {used:.1%} planned"
        lines += [head, bar, *(f"       {share:>6.1%}  {name}" for name, share in shares)]
    return lines


def _replica(replica: Replica, standby: Standby) -> list[str]:
    """A line for each figure, with what decided about it, and the command last."""
    launch = replica.launch
    rows: list[Row] = [("engine", replica.kind, replica.reason), _where(replica)]
    if launch:
        rows.append(("address", replica.url, ""))
    if replica.memory:
        rows += memory_rows(replica.memory, replica.origins, context=replica.context, gpus=len(replica.gpus))
    elif replica.context:
        slots = f", {replica.concurrency} requests at once" if replica.attached and replica.concurrency else ""
        rows.append(("context", f"{replica.context:,} tokens{slots}", replica.origins.get("context", "")))
    rows += map(_note, launch.notes if launch else ())
    if replica.sleep:
        kept = f"{size(replica.memory.weights_bytes * len(replica.gpus))} of weights" if replica.memory else "weights"
        how = "loaded first, then put to sleep, which releases the GPU memory"
        if standby is not Standby.WARM:
            how = f"if it suffices, else {'without them' if replica.sleep.light else 'unloaded'}"
        no_gpu = ("stops working", "it has no GPU, and releases no memory")
        rows.append(("asleep", f"{kept} in RAM", how) if replica.gpus else ("asleep", *no_gpu))
    lines = [f"  {replica.name}", *(line for row in rows for line in _row(*row))]
    if launch and launch.own_env:
        lines += _wrapped(f"    {'env':<{LABEL}}", " ".join(f"{name}=***" for name in launch.own_env))
    return [*lines, *_wrapped(f"    {'command':<{LABEL}}", shlex.join(launch.argv), breaker=" \\")] if launch else lines


def _where(replica: Replica) -> Row:
    if replica.launch is None:
        return "where", f"attached: {replica.url}{replica.api_path} as {replica.served_name!r}", ""
    if not replica.gpus:
        return "where", "CPU", replica.origins.get("gpus", "")
    fraction = f", {replica.memory_fraction:.1%} of its memory" if replica.memory_fraction else ""
    return "where", f"GPU {', '.join(map(str, replica.gpus))}{fraction}", replica.origins.get("gpus", "")


def _note(note: str) -> Row:
    """Of "tools: hermes (model type)"."""
    what, _, choice = note.partition(": ")
    value, _, origin = choice.rpartition(" (")
    return (what, value, origin.removesuffix(")")) if value else (what, choice, "")


def memory_rows(memory: MemoryEstimate, origins: dict[str, str], *, context: int | None, gpus: int) -> list[Row]:
    """What a replica takes on each GPU, and what its KV cache holds."""
    parts = {"weights": memory.weights_bytes, "kv_cache": memory.kv_bytes, "overhead": memory.overhead_bytes}
    total = max(memory.total_bytes, 1)
    rows = [("memory", f"{size(memory.total_bytes)}{' on each GPU' if gpus > 1 else ''}", "")]
    for name, bytes_ in parts.items():
        figure = f"{size(bytes_):>10}  {_bar(bytes_ / total, SMALL_BAR)}".rstrip()
        rows.append((f"  {'KV cache' if name == 'kv_cache' else name}", figure, origins.get(name, "")))
    larger = memory.largest_context > (context or 0) and memory.kv_tokens
    up_to = f" (up to {memory.largest_context:,} fit)" if larger else ""
    rows.append(("context", f"{context or 0:,} tokens{up_to}", origins.get("context", "")))
    if not memory.kv_tokens:
        return rows
    requests = memory.kv_tokens // (context or memory.kv_tokens)
    full = f"{requests:,} full request{'' if requests == 1 else 's'}"
    rows.append(("  holds", f"{memory.kv_tokens:,} tokens: {full}", "the engine's layout"))
    fixed = f" + {size(memory.kv_bytes_per_request)} a request" if memory.kv_bytes_per_request else ""
    each = f"{memory.kv_bytes_per_token / 1024:.1f} KiB{fixed}"
    return [*rows, ("  each token", each, origins.get("token", ""))]


def _bar(share: float, width: int) -> str:
    return "#" * round(share * width)


def _row(what: str, value: str, origin: str) -> list[str]:
    """The figure, and next to it what decided. One that is too wide has the whole line, and what decided the next."""
    label, gap = f"    {what:<{LABEL}}", " " * 2
    if not origin:
        return _wrapped(label, value)
    if len(value) > VALUE:
        return [*_wrapped(label, value), *_wrapped(" " * (len(label) + VALUE) + gap, origin)]
    return _wrapped(f"{label}{value:<{VALUE}}{gap}", origin)


def _wrapped(label: str, text: str, *, breaker: str = "") -> list[str]:
    """`text` after the label, with a hanging indent; `breaker` ends each line that continues."""
    width = WIDTH - len(label) - len(breaker)
    lines = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]
    ended = [*(line + breaker for line in lines[:-1]), lines[-1]]
    return [(label if number == 0 else " " * len(label)) + line for number, line in enumerate(ended)]

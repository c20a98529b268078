"""Streams in each client API through Berth: what writing them anew costs beside passing them on."""

from collections.abc import Sequence
from contextlib import ExitStack

from etc.tools.rivals import loads, routers
from etc.tools.rivals.apis import APIS, CHAT
from etc.tools.rivals.compare import Say
from etc.tools.rivals.figures import median, median_ratio
from etc.tools.rivals.measure import Measurement, measure
from etc.tools.rivals.table import number, rounded, table, times

BUDGET = 2.0  # times what a stream of OpenAI's chat costs per token


def translate(*, rounds: int, seconds: float, say: Say) -> list[dict[str, Measurement]]:
    """Rounds, and in each of them a measurement per API; each round begins with another one."""
    names = list(APIS)
    with ExitStack() as stack:
        url, upstream = stack.enter_context(routers.upstream())
        router = stack.enter_context(routers.berth_with(url))
        found = []
        for turn in range(rounds):
            say(f"round {turn + 1} of {rounds}: the same streams in {', '.join(names)} ...")
            order = names[turn % len(names) :] + names[: turn % len(names)]
            found.append({name: measure(router, loads.streams(seconds, name), upstream) for name in order})
        return found


def text(found: Sequence[dict[str, Measurement]]) -> str:
    plain = [one[CHAT.name].cost_us for one in found]
    rows, over = [], []
    for name in APIS:
        costs = [one[name].cost_us for one in found]
        share = median_ratio(costs, plain)
        failed = sum(sum(one[name].result.failures.values()) + one[name].result.unfinished for one in found)
        rows.append([name, rounded(median(costs)), times(share), number(failed)])
        if name != CHAT.name and not share <= BUDGET:
            over.append(name)
    verdict = f"over {BUDGET:g}x: {', '.join(over)}" if over else f"every API at most {BUDGET:g}x: kept"
    return f"{table(['streams in', 'CPU us per token', '/ chat', 'failed'], rows)}\n{verdict}"

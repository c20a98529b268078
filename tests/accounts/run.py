"""`python -m tests.accounts.run`, or `make accounts`: do limits hold to 1 % over four workers, for ten minutes; how
long does a client wait beside one that floods an engine; is usage what the clients were told, while programs are
killed. Exit code 1 if one of them is not so. tests/e2e/test_limits.py and test_keys.py are the short forms.
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Iterator
from itertools import chain

from tests.accounts import limits, usage
from tests.accounts.limits import BURST_S, PER_MINUTE, SETTLED_S, Granted, Waits, key_of
from tests.accounts.usage import KILLS, Told, in_files, pair, written
from tests.e2e.appliance import Appliance

WORKERS = "2"  # of the usage
NEARNESS = 0.01  # to the ideal
LONGEST_WAIT_S = 1.0  # of the median
SPENDERS = ("alice", "carol")


def limits_found(granted: dict[str, Granted], begins: float, ends: float) -> Iterator[tuple[bool, str]]:
    for kind, one in granted.items():
        ratio, worst = one.ratio(begins, ends), one.worst_minute()
        text = f"{kind}: {len(one.moments)} requests; {ratio:.4f} of the ideal in {ends - begins:.0f} s"
        yield abs(ratio - 1) <= NEARNESS, text
        most = 1 + BURST_S / limits.MINUTE_S + max(one.amounts) / PER_MINUTE[kind] + NEARNESS
        yield worst <= most, f"{kind}: {worst:.3f} of the limit in the worst minute, at most {most:.3f}"


def waits_found(waits: Waits) -> Iterator[tuple[bool, str]]:
    alone, flooded, flood = (statistics.median(one) for one in (waits.alone, waits.flooded, waits.flood))
    text = f"first byte, median: {flooded:.2f} s beside a flood, {alone:.2f} s without, {flood:.2f} s of the flood's"
    yield flooded <= LONGEST_WAIT_S, f"{text}; {len(waits.flooded)} requests, longest {max(waits.flooded):.2f} s"


def usage_found(told: Told, forms: dict[str, usage.Sums]) -> Iterator[tuple[bool, str]]:
    results = ", ".join(f"{count} {what}" for what, count in sorted(told.results.items()))
    killed = ", ".join(f"{count} {what}" for what, count in sorted(told.killed.items()))
    yield set(told.results) <= {"whole", "lost"}, f"requests: {results}; killed: {killed}"
    for form, sums in forms.items():
        yield sums == told.tokens(), f"{form}: {sums}; the clients: {told.tokens()}"


def check_limits(minutes: float, clients: int) -> Iterator[tuple[bool, str]]:
    with limits.appliance() as berth:
        ends = time.monotonic() + minutes * limits.MINUTE_S
        granted = asyncio.run(limits.measure_limits(berth, minutes * limits.MINUTE_S, clients))
        begins = max(one.moments[0] for one in granted.values()) + SETTLED_S
        yield from limits_found(granted, begins, ends)
        yield from waits_found(asyncio.run(limits.measure_waits(berth, 30.0, clients)))


def check_usage(requests: int, rounds: int) -> Iterator[tuple[bool, str]]:
    keys = "\n".join(f"{name}: {{key: {key_of(name)}}}" for name in SPENDERS)
    options = {"BERTH_RESTART_LIMIT": "1000", "BERTH_RESTART_WINDOW": "1s"}  # what happens here is no crash loop
    with Appliance(pair("m"), BERTH_WORKERS=WORKERS, BERTH_API_KEYS=keys, **options) as berth:
        berth.http.headers["authorization"] = f"Bearer {key_of(SPENDERS[0])}"
        berth.wait_ready()
        told = Told(berth, "m", SPENDERS)
        asyncio.run(told.run(requests, KILLS * rounds))
        berth.wait_ready()
        forms = written(berth, SPENDERS)
        berth.stop()
        yield from usage_found(told, {**forms, "files": in_files(berth)})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("limits", "usage"))
    parser.add_argument("--minutes", type=float, default=10.0, help="of the limits")
    parser.add_argument("--clients", type=int, default=64, help="of each key, at a time")
    parser.add_argument("--requests", type=int, default=500, help="of the usage, at least")
    parser.add_argument("--rounds", type=int, default=4, help="of kills: an engine, a worker, control")
    options = parser.parse_args()
    found: list[Iterator[tuple[bool, str]]] = []
    if options.only != "usage":
        found.append(check_limits(options.minutes, options.clients))
    if options.only != "limits":
        found.append(check_usage(options.requests, options.rounds))
    good = True
    for is_good, text in chain.from_iterable(found):
        sys.stdout.write(f"{'ok  ' if is_good else 'NOT '} {text}\n")
        sys.stdout.flush()
        good &= is_good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

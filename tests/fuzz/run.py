"""`make fuzz`: attacks on a router in their long form, then mutated requests for some minutes.

The table has the longest pause of the event loop, and the memory of the worker, at its peak and half a second after.
Exits with 1 if something was found.
"""

import argparse
import sys
import time

from tests.fuzz.attacks import ATTACKS, Attack, Target, target
from tests.fuzz.mutants import fuzzed_router, send_mutants
from tests.fuzz.watch import Watched, watch

_MOST_PAUSE_S = 0.2  # they are 0.06 s at most, on a machine that does nothing else
_MOST_BYTES = 800 << 20
_AT_ONCE = 1000
_TRIES = 3  # a pause that comes once is the machine's


def attack(
    on: Target, name: str, one: Attack, size: int, *, most_pause_s: float = _MOST_PAUSE_S
) -> tuple[str, list[str]]:
    """A line of the table, and what is wrong."""
    begun = time.monotonic()
    for _ in range(_TRIES):
        with watch(on.router) as seen:
            statuses = one.run(on, size)
        if seen.pause_s <= most_pause_s:
            break
    shown = ", ".join(f"{count} x {status}" for status, count in sorted(statuses.items()))
    line = (
        f"{name:16} {size:6} {time.monotonic() - begun:6.1f} s {seen.pause_s * 1000:7.0f} ms "
        f"{seen.peak_bytes >> 20:6} MiB {seen.after_bytes >> 20:6} MiB   {shown}"
    )
    return line, [f"{name}: {wrong}" for wrong in wrongs(one, set(statuses), seen, most_pause_s)]


def wrongs(one: Attack, statuses: set[str], seen: Watched, most_pause_s: float) -> list[str]:
    found = [f"status {status}" for status in sorted(statuses - one.allowed)]
    if seen.pause_s > most_pause_s:
        found.append(f"the event loop paused for {seen.pause_s:.2f} s")
    if seen.peak_bytes > _MOST_BYTES:
        found.append(f"the worker took {seen.peak_bytes >> 20} MiB")
    return found


def attacks(*, short: bool) -> list[str]:
    """All of them, one after another on one router; what was found."""
    found = []
    sys.stdout.write(f"{'attack':16} {'size':>6} {'time':>8} {'pause':>10} {'peak':>10} {'after':>10}\n")
    with target() as on:
        for name, one in ATTACKS.items():
            line, wrong = attack(on, name, one, one.short if short else one.long)
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
            found += wrong
        found += [f"in the log: {line}" for line in on.router.log.splitlines() if "Traceback" in line]
    return found


def mutants(minutes: float, seed: int) -> list[str]:
    found: list[str] = []
    ends, done = time.monotonic() + 60 * minutes, 0
    with fuzzed_router() as router:
        while time.monotonic() < ends and not found:
            found = send_mutants(router, seed + done, _AT_ONCE).problems
            done += 1
    sys.stdout.write(f"{done * _AT_ONCE} mutated requests, seeds {seed} to {seed + done - 1}\n")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2, help="of mutated requests (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the first thousand of them (default %(default)s)")
    parser.add_argument("--short", action="store_true", help="the attacks as in `make test`")
    given = parser.parse_args()
    found = [*attacks(short=given.short), *mutants(given.minutes, given.seed)]
    sys.stdout.write("".join(f"found: {line}\n" for line in found) or "nothing found\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

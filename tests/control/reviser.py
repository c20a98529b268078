"""In place of `berth.boot.revise`: the engine that is meant gets one more word on its command line.

reviser.py DIR: reads what is wanted, and writes the reply. "args=exit=1" is a word with which the fake engine ends, and
"args=none" one that cannot be planned. Without words, the command line is as it was at first.
"""

import sys
from dataclasses import replace

import msgspec

from berth.ipc.revising import Revised, Wanted
from berth.plan import Replica, read_plan


def revised(run_dir: str, wanted: Wanted) -> Revised:
    words = [text.partition("=")[2] for text in wanted.set]
    if "none" in words:
        raise SystemExit("no such word")
    plan = read_plan(run_dir)
    (route,) = plan.models

    def worded(replica: Replica) -> Replica:
        if replica.name != wanted.replica or replica.launch is None:
            return replica
        launch = replace(replica.launch, argv=(*(word for word in replica.launch.argv if word != "dressed"), *words))
        return replace(replica, launch=launch, context=100 + len(words))

    return Revised(
        changes=tuple(f"engines[0].args={word}" for word in words),
        says={"engines": "old, new", "args": " ".join(words)},
        engines=("old", "new"),
        route=replace(route, context=100 + len(words)),
        replicas=tuple(map(worded, plan.replicas)),
    )


if __name__ == "__main__":
    sys.stdout.buffer.write(
        msgspec.json.encode(revised(sys.argv[1], msgspec.json.decode(sys.stdin.buffer.read(), type=Wanted)))
    )

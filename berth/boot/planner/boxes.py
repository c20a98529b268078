"""What the other boxes say of themselves when a plan is made. Those that do not run yet say nothing."""

import asyncio

from berth.ipc.box_link import LinkError, Question, ask
from berth.plan import Box, Node, Nodes


def ask_boxes(nodes: Nodes, key: str) -> tuple[Box, ...]:
    """All of them at once."""
    question = Question(kind="box", nonce="", boxes=tuple(map(str, nodes.boxes)), box=Box(rank=nodes.rank))

    async def ask_one(node: Node) -> Box | None:
        try:
            return (await ask(node, question, key)).box
        except LinkError:  # control says why, as soon as it runs
            return None

    async def ask_all() -> list[Box | None]:
        return await asyncio.gather(*(ask_one(node) for node in nodes.boxes if node is not nodes.own))

    return tuple(box for box in asyncio.run(ask_all()) if box is not None)

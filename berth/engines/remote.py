"""Attached engines ("remote" in the configuration): they run elsewhere, and Berth only probes them.

The user may name the dialect of the engine; the default is OpenAI's own, in which nothing is translated.
"""

from berth.engines.base import LaunchOrder
from berth.plan import DialectName, EngineName, Launch, Probe, Sleep


class RemoteEngine:
    name = EngineName.REMOTE
    dialect = DialectName.OPENAI
    ready = Probe(path="/v1/models")  # registry.probes has the dialect's own
    alive = Probe(path="/v1/models")
    sleep: Sleep | None = None  # the decision of its operator
    takes_socket = False
    traces_flags: tuple[str, ...] = ()
    start_timeout_s = 0.0
    stop_timeout_s = 0.0

    def launch(self, order: LaunchOrder) -> Launch:
        raise ValueError(f"{order.replica!r} is an attached engine: it cannot be started")

    def overhead_bytes(self, *, gpus: int) -> int:
        return 0

    def concurrency(self, order: LaunchOrder) -> int | None:
        return None

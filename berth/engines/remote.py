"""remote: an engine that somebody else runs, attached by its URL. There is nothing to start, only to probe.

Its dialect is that of the engine where the user says which; else OpenAI's own, in which nothing is translated.
"""

from berth.engines.base import LaunchOrder
from berth.plan import DialectName, EngineName, Launch, Probe, Sleep


class RemoteEngine:
    name = EngineName.REMOTE
    dialect = DialectName.OPENAI
    ready = Probe(path="/v1/models")  # registry.probes has the dialect's own
    alive = Probe(path="/v1/models")
    sleep: Sleep | None = None  # that is for those to decide who run it
    takes_socket = False
    start_timeout_s = 0.0
    stop_timeout_s = 0.0

    def launch(self, order: LaunchOrder) -> Launch:
        raise ValueError(f"{order.replica!r} is attached by URL: there is nothing to start")

    def overhead_bytes(self, *, gpus: int) -> int:  # noqa: ARG002 - the interface asks
        return 0

    def concurrency(self, order: LaunchOrder) -> int | None:  # noqa: ARG002 - the interface asks
        return None

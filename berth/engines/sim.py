"""sim: the built-in simulated engine (`berth sim`), which speaks any engine's dialect and misbehaves on demand."""

from berth.engines.base import LaunchOrder
from berth.plan import DialectName, EngineName, Launch, Probe


class SimEngine:
    name = EngineName.SIM
    dialect = DialectName.VLLM
    ready = Probe(path="/health")  # registry.probes has the dialect's own
    alive = Probe(path="/health")
    start_timeout_s = 120.0
    stop_timeout_s = 10.0

    def launch(self, order: LaunchOrder) -> Launch:
        argv = [order.python, "-m", "berth", "sim", "--dialect", order.dialect or self.dialect]
        argv += ["--host", order.host, "--port", str(order.port)]
        argv += ["--served-model-name", order.served_name, "--task", order.task]
        argv += ["--context", str(order.context)] if order.context else []
        argv += order.extra_args
        return Launch(argv=tuple(str(word) for word in argv), env={"PYTHONUNBUFFERED": "1", **order.extra_env})

    def overhead_bytes(self, *, gpus: int) -> int:  # noqa: ARG002 - the interface asks
        return 0

"""sim: how the built-in simulated engine (`berth sim`) is started. It speaks any engine's dialect."""

from berth.engines.base import LaunchOrder
from berth.engines.cli_arguments import number
from berth.engines.environment import UNSET
from berth.plan import DialectName, EngineName, Launch, Probe, Sleep

MAX_RUNNING = 256  # its default


class SimEngine:
    name = EngineName.SIM
    dialect = DialectName.VLLM
    ready = Probe(path="/health")  # registry.probes has the dialect's own
    alive = Probe(path="/health")
    sleep: Sleep | None = None  # registry.sleep has the dialect's own
    takes_socket = False
    traces_flags: tuple[str, ...] = ()
    start_timeout_s = 120.0
    stop_timeout_s = 10.0

    def launch(self, order: LaunchOrder) -> Launch:
        argv = [order.python, "-m", "berth", "sim", "--dialect", order.dialect or self.dialect]
        argv += ["--host", order.host, "--port", str(order.port)]
        argv += ["--served-model-name", order.served_name, "--task", order.task]
        argv += ["--context", str(order.context)] if order.context else []
        argv += ["--can-sleep"] if order.sleeps else []
        argv += ["--adapters", *(adapter.name for adapter in order.adapters)] if order.adapters else []
        argv += ["--adapter-slots", str(len(order.spare_adapters))] if order.spare_adapters else []
        if ranks := order.ranks:
            argv += ["--nnodes", str(ranks.nodes), "--node-rank", str(ranks.rank), "--dist-init-addr", ranks.meeting]
        argv += order.extra_args
        env = {"PYTHONUNBUFFERED": "1"}
        return Launch(argv=tuple(str(word) for word in argv), env=env, unset=UNSET, key_variable="SIM_API_KEY")

    def overhead_bytes(self, *, gpus: int) -> int:
        return 0

    def concurrency(self, order: LaunchOrder) -> int | None:
        return number(order.extra_args, "--max-running") or MAX_RUNNING

"""Sleep mode: the engines' calls that free GPU memory and take it back.

vLLM, in its development mode: sleeping aborts the running requests, new ones wait until it wakes, and each call may be
repeated. SGLang: sleeping while a request runs and waking while awake crash it, and so does a request while it sleeps,
because its memory is gone. Started without the option for it, SGLang answers both calls and does nothing.
"""

from berth.plan import DialectName
from berth.sim.dialect import CrashError, Response, Route, engine_error
from berth.sim.engine import Engine, Interrupt
from berth.sim.inference import wait_forever

_RESIDUE_MIB = 1024  # asleep: the CUDA context and what else stays
_FAULTS = {Route.SLEEP: "sleep-fails", Route.WAKE: "wake-fails"}


async def respond(engine: Engine, route: Route) -> Response:
    """Carries out the call. CrashError if it crashes the engine."""
    if route in _FAULTS and engine.faults.value(_FAULTS[route]) is not None:
        return engine_error(engine.dialect, 500)
    if route is Route.WAKE and engine.faults.value("wake-hangs") is not None:
        await wait_forever()
    if engine.options.dialect is DialectName.VLLM:
        return _respond_vllm(engine, route)
    if engine.options.can_sleep and route is Route.WAKE:
        if engine.awake.is_set():
            raise CrashError("Scheduler hit an exception: KeyError: 'kv_cache'")
        _set_awake(engine)
    elif engine.options.can_sleep:
        if not engine.idle.is_set():
            raise CrashError(
                "Scheduler hit an exception: AssertionError: release_memory_occupation should be called only when "
                "server is idle."
            )
        _set_asleep(engine)
    return Response(body=b"null")


def _respond_vllm(engine: Engine, route: Route) -> Response:
    if route is Route.ASLEEP:
        asleep = b"false" if engine.awake.is_set() else b"true"
        return Response(body=b'{"is_sleeping":' + asleep + b"}")
    if route is Route.WAKE:
        _set_awake(engine)
        return Response(body=b'{"status":"awake","tags":null}')
    _set_asleep(engine)
    engine.interrupt(Interrupt.ABORT)
    return Response(body=b'{"status":"sleeping","level":1}')


def _set_awake(engine: Engine) -> None:
    engine.awake.set()
    engine.gpu_memory.hold()


def _set_asleep(engine: Engine) -> None:
    engine.awake.clear()
    residue = engine.faults.value("gpu-residue")
    engine.gpu_memory.hold(at_most_mib=_RESIDUE_MIB if residue is None else int(residue))

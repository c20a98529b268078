"""Sleep, as each engine has it.

vLLM in its development mode: what runs is aborted, what comes waits until it wakes, and each call may come twice.
SGLang: going to sleep while a request runs and waking what is awake end it, and so does a request while it sleeps,
whose memory is not there. Started without the option for it, it answers both calls and does nothing.
"""

from berth.plan import DialectName
from berth.sim.dialect import CrashError, Response, Route, engine_error
from berth.sim.engine import Engine, Interrupt
from berth.sim.inference import wait_forever

_FAULTS = {Route.SLEEP: "sleep-fails", Route.WAKE: "wake-fails"}


async def answer(engine: Engine, route: Route) -> Response:
    """The answer to one of the calls for sleep, after what it does. CrashError where it ends the engine."""
    if route in _FAULTS and engine.faults.value(_FAULTS[route]) is not None:
        return engine_error(engine.dialect, 500)
    if route is Route.WAKE and engine.faults.value("wake-hangs") is not None:
        await wait_forever()
    if engine.options.dialect is DialectName.VLLM:
        return _vllm(engine, route)
    if engine.options.can_sleep:
        _sglang(engine, route)
    return Response(body=b"null")


def _vllm(engine: Engine, route: Route) -> Response:
    if route is Route.ASLEEP:
        asleep = b"false" if engine.awake.is_set() else b"true"
        return Response(body=b'{"is_sleeping":' + asleep + b"}")
    if route is Route.WAKE:
        engine.awake.set()
        return Response(body=b'{"status":"awake","tags":null}')
    engine.awake.clear()
    engine.interrupt(Interrupt.ABORT)
    return Response(body=b'{"status":"sleeping","level":1}')


def _sglang(engine: Engine, route: Route) -> None:
    if route is Route.WAKE:
        if engine.awake.is_set():
            raise CrashError("Scheduler hit an exception: KeyError: 'kv_cache'")
        engine.awake.set()
        return
    if not engine.idle.is_set():
        raise CrashError(
            "Scheduler hit an exception: AssertionError: release_memory_occupation should be called only when server "
            "is idle."
        )
    engine.awake.clear()

"""Sleep mode: the engines' calls that free GPU memory and take it back.

vLLM, in its development mode: sleeping aborts the running requests, new ones wait until it wakes. A second call to
sleep changes nothing but that: what sleeps with its weights keeps them. A call to wake does nothing if it names a part
that is awake. After level 2 the weights are gone: it wakes all the same, with garbage in their place, until they are
reloaded. SGLang: sleeping while a request runs and waking while awake crash it, and so does a request while it sleeps,
because its memory is gone. While it is paused, requests wait instead, and those that run count as waiting. Started
without the option for sleep, SGLang answers both calls and does nothing.
"""

from urllib.parse import parse_qs

import orjson

from berth.plan import DialectName
from berth.sim import body_validation
from berth.sim.dialect import CrashError, Response, Route, detail, engine_error
from berth.sim.engine import Engine, Interrupt
from berth.sim.http.response_writer import Request
from berth.sim.inference import wait_forever

_FAULTS = {Route.SLEEP: "sleep-fails", Route.WAKE: "wake-fails"}
_HANGS = {Route.SLEEP: "sleep-hangs", Route.WAKE: "wake-hangs"}
_TAGS = ("weights", "kv_cache")
_RESIDUE_MIB = 1024  # asleep: the CUDA context and what else stays


async def respond(engine: Engine, route: Route, request: Request) -> Response:
    """Carries out the call. CrashError if it crashes the engine."""
    if route in _FAULTS and engine.faults.value(_FAULTS[route]) is not None:
        return engine_error(engine.dialect, 500)
    if route in _HANGS and engine.faults.value(_HANGS[route]) is not None:
        await wait_forever()
    if engine.options.dialect is DialectName.VLLM:
        return _respond_vllm(engine, route, request)
    if route in (Route.PAUSE, Route.CONTINUE):
        if route is Route.PAUSE:
            engine.going.clear()
        else:
            engine.going.set()
        return Response(body=b'{"message":"Generation ' + (b"paused" if route is Route.PAUSE else b"continued") + b'"}')
    if engine.options.can_sleep and route is Route.WAKE:
        if engine.awake.is_set():
            raise CrashError("Scheduler hit an exception: KeyError: 'kv_cache'")
        _set_awake(engine)
    elif engine.options.can_sleep:
        if engine.going.is_set() and not engine.idle.is_set():
            raise CrashError(
                "Scheduler hit an exception: AssertionError: release_memory_occupation should be called only when "
                "server is idle."
            )
        _set_asleep(engine)
    return Response(body=b"null")


def _respond_vllm(engine: Engine, route: Route, request: Request) -> Response:
    query = parse_qs(request.query)
    if route is Route.ASLEEP:
        return Response(body=orjson.dumps({"is_sleeping": not engine.awake.is_set()}))
    if route is Route.RPC:
        method = body_validation.parse_object(request.body).get("method")
        if method != "reload_weights":
            return detail(400, f"The simulated workers have no method {method!r}")
        if "weights" in engine.sleeping_tags:
            raise CrashError("CUDA error: an illegal memory access was encountered")
        engine.lost_weights = False
        return Response(body=b'{"results":[null]}')
    if route is Route.WAKE:
        named = [one for one in query.get("tags", []) if one != "scheduling"]
        if engine.sleeping_tags.issuperset(named):
            engine.sleeping_tags.difference_update(named or (() if "tags" in query else _TAGS))
        if not engine.sleeping_tags:
            _set_awake(engine)
        status = "sleeping" if engine.sleeping_tags else "awake"
        return Response(body=orjson.dumps({"status": status, "tags": query.get("tags")}))
    level = int(query.get("level", ["1"])[-1])
    if level not in (0, 1, 2):
        return detail(400, f"Input should be from 0 to 2, not {level}")
    engine.awake.clear()
    if level and "weights" not in engine.sleeping_tags:
        _set_asleep(engine)
        engine.sleeping_tags.update(_TAGS)
        engine.lost_weights |= level == 2
    engine.interrupt(Interrupt.ABORT)
    return Response(body=orjson.dumps({"status": "sleeping", "level": level}))


def _set_awake(engine: Engine) -> None:
    engine.awake.set()
    engine.gpu_memory.hold()


def _set_asleep(engine: Engine) -> None:
    engine.awake.clear()
    residue = engine.faults.value("gpu-residue")
    engine.gpu_memory.hold(at_most_mib=_RESIDUE_MIB if residue is None else int(residue))

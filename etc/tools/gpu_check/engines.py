"""What an engine takes and gives back: load, sleep, wake and death of one that is installed here and started as Berth
does.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from berth.control.decisions.records import Timing
from berth.control.hangs.canary import Canary
from berth.control.logs.start_memory import StartMemory, after_line, measurement
from berth.control.probes import Prober
from berth.control.sleep import SleepMode
from berth.plan import Keys, Plan, Replica
from berth.records.starts import How
from berth.units import MIB
from etc.tools.gpu_check.parts import Bench, Json

READY_POLL_S = 0.2
CANARY_S = 30.0  # for one token
LONGEST_RELEASE_S = 30.0


def plan_for(engine: str, model: str, folder: Path) -> Plan | str:
    """As Berth would start it on one GPU; or why it would not."""
    models = {"check": {"source": model, "engines": [engine], "gpus": 1, "sleep": True, "context": 1024}}
    environ = {name: value for name, value in os.environ.items() if not name.startswith("BERTH_")}
    home = os.environ.get("BERTH_ENGINE_HOME")
    environ |= {"BERTH_MODELS": msgspec.json.encode(models).decode(), "BERTH_RUN_DIR": str(folder / "run")}
    environ |= {"BERTH_DATA": str(folder / "data"), **({"BERTH_ENGINE_HOME": home} if home else {})}
    command = [sys.executable, "-m", "berth", "plan", "--json"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    return Plan.from_json(done.stdout.encode()) if done.returncode == 0 else done.stderr.strip()


def check(bench: Bench, engine: str, model: str, folder: Path, limit_s: float) -> Json:
    """{"skipped": why} where it cannot be checked."""
    plan = plan_for(engine, model, folder)
    if isinstance(plan, str):
        return {"skipped": plan}
    replica = plan.replicas[0]
    plan.paths.leaders.mkdir(parents=True, exist_ok=True)
    plan.paths.logs.mkdir(exist_ok=True)
    plan.paths.plan.write_bytes(plan.to_json())
    plan.paths.keys.write_bytes(Keys().to_json())
    log, before = plan.paths.replica_log(replica.name), bench.used()
    command = [sys.executable, "-m", "berth", "exec", "--run-dir", plan.paths.run_dir, replica.name]
    with (
        log.open("wb") as output,
        subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True) as process,
    ):
        try:
            found = asyncio.run(_life(bench, replica, process, before, limit_s))
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    if "skipped" in found:
        return {**found, "log": log.read_text(errors="replace")[-2000:]}
    began, left = time.monotonic(), bench.used() - before
    while left > 64 * MIB and time.monotonic() - began < LONGEST_RELEASE_S:
        time.sleep(READY_POLL_S)
        left = bench.used() - before
    found |= {"release_s": round(time.monotonic() - began, 2), "left_mib": max(left, 0) // MIB}
    memory = StartMemory()
    for line in log.read_text(errors="replace").splitlines():
        memory = after_line(memory, line)
    kept = measurement(memory, replica, plan, int(time.time()))
    return {**found, "measurement": None if kept is None else msgspec.to_builtins(kept)}


async def _life(
    bench: Bench, replica: Replica, process: "subprocess.Popen[bytes]", before: int, limit_s: float
) -> Json:
    began = time.monotonic()
    async with Prober() as prober:
        while error := await prober.probe(replica, replica.ready):
            if process.poll() is not None or time.monotonic() - began > limit_s:
                return {"skipped": f"not ready after {time.monotonic() - began:.0f} s: {error}"}
            await asyncio.sleep(READY_POLL_S)
        found: Json = {"load_s": round(time.monotonic() - began, 2), "footprint_mib": (bench.used() - before) // MIB}
        if replica.sleep is None:
            return {**found, "sleep": "it has no sleep mode"}
        mode = SleepMode(prober, Canary(prober, CANARY_S), lambda one: bench.gpus.used(one.gpus), Timing())
        for how, suffix in ((How.WAKE_1, ""), (How.WAKE_2, "_light")):
            if how is How.WAKE_2 and not replica.sleep.light:
                continue
            began = time.monotonic()
            error = await mode.put_to_sleep(replica, replica.sleep, how)
            found |= {f"sleep{suffix}": error or "ok", f"sleep{suffix}_s": round(time.monotonic() - began, 2)}
            found[f"residue{suffix}_mib"] = (bench.used() - before) // MIB
            began = time.monotonic()
            error = await mode.wake(replica, replica.sleep, how)
            found |= {f"wake{suffix}": error or "ok", f"wake{suffix}_s": round(time.monotonic() - began, 2)}
        return found

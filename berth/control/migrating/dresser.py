"""Other command lines for a model that migrates: planned by boot's code, and put into the plan while a replica rests.

plan.json is the truth: `berth exec` starts from it, and so does a control or router worker that is started later.
Workers that run learn from the state what has changed. Each step may be done twice: after a kill it is.
"""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec

from berth.control.decisions.migrations import rested
from berth.control.runtime import Runtime
from berth.ipc.migration import Migration
from berth.ipc.revising import LONGEST_S, Dress, Revised, Wanted, dress_path
from berth.log import log
from berth.plan import Plan, read_plan
from berth.processes import replace_file

LONGEST_ERROR: Final = 500
COMMAND: Final = (sys.executable, "-P", "-m", "berth.boot.revise")


class Dresser:
    def __init__(self, runtime: Runtime, command: Sequence[str]) -> None:
        self._runtime = runtime
        self._command = command

    async def revised(self, wanted: Wanted) -> Revised:
        """How the model would be planned. Never raises."""
        process = await asyncio.create_subprocess_exec(
            *self._command,
            self._runtime.plan.paths.run_dir,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(LONGEST_S):
                out, errors = await process.communicate(msgspec.json.encode(wanted))
            return replace(msgspec.json.decode(out, type=Revised), wanted=wanted)
        except TimeoutError:
            return Revised(wanted=wanted, error=f"this took longer than {LONGEST_S:g} s")
        except ValueError:
            return Revised(wanted=wanted, error=errors.decode(errors="replace").strip()[-LONGEST_ERROR:])
        finally:
            if process.returncode is None:
                process.kill()
                await process.communicate()  # its pipes are closed too then

    def keep(self, migration: Migration, revised: Revised) -> None:
        """What the model is before and after, until the migration is over. OSError where it cannot be written."""
        plan = read_plan(self._runtime.plan.paths.run_dir)
        dress = Dress(before=as_planned(plan, revised), after=revised)
        replace_file(dress_path(plan.paths, migration.candidate), msgspec.json.encode(dress), mode=0o600)

    def read(self, migration: Migration) -> Dress:
        """OSError or ValueError where it is gone."""
        path = dress_path(self._runtime.plan.paths, migration.candidate)
        return msgspec.json.decode(path.read_bytes(), type=Dress)

    def dress(self, migration: Migration, *, back: bool = False) -> str:
        """All replicas of the model that rest. Returns the error; "" once the plan says so."""
        try:
            dress = self.read(migration)
            self._put_on(dress.before if back else dress.after)
        except (OSError, ValueError) as error:
            log.warning("plan not changed", candidate=migration.candidate, reason=str(error))
            return str(error)
        return ""

    def _put_on(self, revised: Revised) -> None:
        records, run_dir = self._runtime.records, self._runtime.plan.paths.run_dir
        plan = read_plan(run_dir)
        new = {one.name: one for one in revised.replicas if rested(records[one.name])}
        for folder in (folder for one in new.values() if one.launch for folder in one.launch.folders):
            Path(folder).mkdir(parents=True, exist_ok=True)
        routes = {revised.route.name: revised.route} if revised.route else {}
        plan = replace(
            plan,
            models=tuple(routes.get(one.name, one) for one in plan.models),
            replicas=tuple(new.get(one.name, one) for one in plan.replicas),
        )
        replace_file(plan.paths.plan, plan.to_json(), mode=0o600)
        for name, replica in new.items():
            records[name] = replace(records[name], replica=replica, discovered=replica.as_found)


def as_planned(plan: Plan, revised: Revised) -> Revised:
    """The same model as the plan has it now."""
    names = {one.name for one in revised.replicas}
    route = next(one for one in plan.models if revised.route is not None and one.name == revised.route.name)
    return Revised(route=route, replicas=tuple(one for one in plan.replicas if one.name in names))

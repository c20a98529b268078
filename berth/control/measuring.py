"""Keeps what an engine took at its start, for the plans of later boots."""

import time

from berth.control.decisions.records import Record
from berth.control.logs.start_memory import measurement
from berth.log import log
from berth.plan import Plan
from berth.records import measured
from berth.units import size


def keep_measurement(record: Record, plan: Plan) -> None:
    """Of a replica that has become ready. Writes a file, and never raises: nothing depends on it."""
    found = measurement(record.tracker.memory, record.replica, plan, int(time.time()))
    if found is None:
        return
    name = record.replica.name
    try:
        measured.keep(plan.paths.data_dir, found)
    except OSError as error:
        log.warning("measurement not kept", replica=name, error=error.strerror or str(error))
    except ValueError as error:
        log.warning("measurement not kept", replica=name, error=str(error))
    else:
        taken = {"weights": found.weights_bytes, "kv_cache": found.kv_bytes, "overhead": found.overhead_bytes}
        log.info("memory measured", replica=name, **{what: size(bytes_) for what, bytes_ in taken.items()})

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from berth.control.ledger.audit_log import AuditLog
from berth.control.ledger.audit_report import report
from berth.ipc.operations import (
    Action,
    AdapterChange,
    Change,
    Denial,
    DenialCode,
    Operation,
    OperationState,
    Reply,
    Request,
)
from berth.plan import Adapter
from berth.records import audit

pytestmark = pytest.mark.anyio

UNLOAD = Change(action=Action.UNLOAD, model="m")
RUNNING = Operation(id="ab12", action=Action.UNLOAD, model="m", created_at=1.0)
DENIED = Reply(denial=Denial(code=DenialCode.PINNED, message="it is pinned"))


def written(folder: Path) -> list[tuple[str, ...]]:
    return [
        (one.who, one.origin, one.what, one.target, one.result, one.operation) for one in audit.last(str(folder), 50)
    ]


async def test_requests_and_their_ends_are_written_down(tmp_path: Path) -> None:
    log = AuditLog(str(tmp_path), lambda: 5.0)
    log.answered(Request(change=UNLOAD, who="the admin API", origin="10.0.0.7"), Reply(operation=RUNNING))
    log.answered(Request(change=UNLOAD, who="shell uid=0"), DENIED)
    log.answered(Request(cancel="ab12"), Reply(operation=replace(RUNNING, state=OperationState.CANCELLED)))
    for adapter in (
        AdapterChange(model="m", add=Adapter(name="law", source="/l")),
        AdapterChange(model="m", remove="law"),
    ):
        log.answered(Request(adapter=adapter, who="shell uid=0"), Reply())
    dry, listing = Request(change=replace(UNLOAD, dry_run=True)), Request(adapter=AdapterChange(model="m"))
    for ignored in (Request(), Request(operation="ab12"), dry, listing):
        log.answered(ignored, Reply(operation=RUNNING))
    log.settled(lambda _id: RUNNING)
    for _ in range(2):
        log.settled(lambda _id: replace(RUNNING, state=OperationState.FAILED, reason="it did not stop"))
    log.add("the file of the API keys", "keys", "changed", {"added": "alice"})
    await log.flush()

    assert written(tmp_path) == [
        ("the admin API", "10.0.0.7", "unload", "m", "accepted", "ab12"),
        ("shell uid=0", "", "unload", "m", "denied: pinned", ""),
        ("control.sock", "", "cancel", "ab12", "cancelled", "ab12"),
        ("shell uid=0", "", "add adapter", "m/law", "accepted", ""),
        ("shell uid=0", "", "remove adapter", "m/law", "accepted", ""),
        ("the admin API", "10.0.0.7", "unload", "m", "failed", "ab12"),
        ("the file of the API keys", "", "keys", "", "changed", ""),
    ]
    lines = report(str(tmp_path), 2, as_json=False).splitlines()
    assert "unload m: failed, by the admin API from 10.0.0.7 operation=ab12 reason='it did not stop'" in lines[0]
    assert report(str(tmp_path / "other"), 2, as_json=False) == "Nothing was changed."
    assert '"who": "shell uid=0"' in report(str(tmp_path), 9, as_json=True)


async def test_a_full_disk_is_one_warning_and_loses_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = AuditLog(str(tmp_path), lambda: 5.0)
    (tmp_path / "berth").write_text("no folder")
    for number in range(3):
        log.add("someone", f"change {number}", "done")
        await log.flush()
    assert [record.message for record in caplog.records] == ["audit not written, kept in memory"]
    (tmp_path / "berth").unlink()
    await log.flush()

    assert [what for _, _, what, *_ in written(tmp_path)] == ["change 0", "change 1", "change 2"]


async def test_entries_are_written_soon(tmp_path: Path) -> None:
    log = AuditLog(str(tmp_path))
    running = asyncio.create_task(log.run())
    log.add("someone", "change", "done")
    async with asyncio.timeout(10):
        while not written(tmp_path):  # noqa: ASYNC110 - it is in a file
            await asyncio.sleep(0.01)
    running.cancel()

"""The support report over the network."""

import asyncio
import sys
from typing import Any

import pytest

from berth.errors import NotReadyError
from berth.plan import Plan
from berth.router.server import support
from berth.router.server.support import made
from tests.fakes.asgi import ask
from tests.fakes.router import make_plan, replica
from tests.router.server.test_page import ADMIN, KEYS, USER, app_of, cookie

pytestmark = pytest.mark.anyio
SAYS = "import sys; sys.stdout.write(sys.argv[1] * 3); sys.exit({})"
SLEEPS = "import time; print('begins', flush=True); time.sleep(600)"


@pytest.fixture
def plan(run_dir: str) -> Plan:
    return make_plan(run_dir, [replica("chat-vllm", "http://127.0.0.1:1")])


async def test_an_operator_gets_one_archive_at_a_time(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support, "PROGRAM", (sys.executable, "-c", SAYS.format(0)))
    async with app_of(plan, KEYS) as app:
        admin = await cookie(app, ADMIN)
        answer, second = await asyncio.gather(*(ask(app, "/admin/report", headers=admin) for _ in range(2)))
        assert (answer.status, second.status, second.json["error"]["code"]) == (200, 409, "busy")
        assert (await ask(app, "/admin/report", headers=admin)).status == 200
        assert (await ask(app, "/admin/report", headers=await cookie(app, USER))).status == 403
        assert (await ask(app, "/admin/report")).status == 401
    assert answer.headers["content-disposition"].startswith('attachment; filename="berth-report-')
    assert answer.body.decode() == plan.paths.run_dir * 3


async def test_a_report_that_fails_or_takes_too_long_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    assert await made("x", program=(sys.executable, "-c", SAYS.format(0))) == b"xxx"
    with pytest.raises(NotReadyError, match="Berth's log says why"):
        await made("x", program=(sys.executable, "-c", SAYS.format("'cause'")))
    assert caplog.records[0].__dict__["fields"]["said"] == "cause\n"
    with pytest.raises(NotReadyError, match="no report within"):
        await made("x", program=(sys.executable, "-c", SLEEPS), limit_s=0.1)


async def test_a_report_that_nobody_waits_for_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    started = asyncio.get_running_loop().create_future()
    real = asyncio.create_subprocess_exec

    async def seen(*args: Any, **options: Any) -> Any:
        started.set_result(await real(*args, **options))
        return started.result()

    monkeypatch.setattr(asyncio, "create_subprocess_exec", seen)
    waiting = asyncio.create_task(made("x", program=(sys.executable, "-c", SLEEPS)))
    process = await started
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert process.returncode is not None

"""GET /usage: what the client has used this month, and what is left of its budgets. A key sees its own usage only; that
of all clients is at /admin/usage.
"""

import asyncio
import time
from typing import Any

from starlette.types import Receive, Scope, Send

from berth.ipc.key_counters import CHARGED, KEY_WIDTH
from berth.plan import ApiKey
from berth.records import usage
from berth.router.exchange.responses import json_reply, write
from berth.router.worker import Worker


class OwnUsage:
    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        worker, headers = self._worker, dict(scope["headers"])
        key = worker.auth.check(headers, scope.get("client"), changes=False)
        used = worker.meter.keys.total(key.slot * KEY_WIDTH + CHARGED)
        budgets = [
            {"period": period, "used": max(round(used - since), 0), "limit": limit}
            for limit, since, period in key.budgets
        ]
        document = {**await asyncio.to_thread(self._used, key), "budgets": budgets}
        extra = [(b"x-request-id", worker.request_ids.of(headers).encode())]
        await write(send, json_reply(document), extra, head_only=scope["method"] == "HEAD")

    def _used(self, key: ApiKey) -> dict[str, Any]:
        now = time.time()
        lines = usage.current(self._worker.plan, month := usage.month_of(now), now=now)
        rows = usage.summary((line for line in lines if line.key == key.name), "model")
        return {"key": key.name, "expires": key.expires or None, "month": month, "rows": rows}

"""Answers one inference request: reads it, waits as long as an engine would, and fails as it was told to."""

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import replace

from berth.plan import DialectName
from berth.sim import body_validation
from berth.sim.active_faults import Effects, Ending, How
from berth.sim.body_validation import InvalidError, Json, RefusalError
from berth.sim.dialect import CrashError, Page, Route, broken
from berth.sim.engine import Clock, Engine, Interrupt, Live, QueueFullError
from berth.sim.generation import Ask, Kind, Piece, Script, scripts
from berth.sim.http.response_writer import Out, Request, first_long_character
from berth.sim.pooling import POOLED
from berth.sse import frame

_STREAM = "text/event-stream; charset=utf-8"
_GARBAGE = frame(b'{"id":"garbage","choi')


class Inference:
    """One request on its way through the engine."""

    def __init__(self, engine: Engine, out: Out) -> None:
        self._engine = engine
        self._dialect = engine.dialect
        self._out = out
        self._effects: Effects = out.effects

    async def run(self, route: Route, request: Request) -> None:
        """CrashError goes to the caller; everything else is answered here."""
        self._effects = self._out.effects = self._engine.faults.take()
        await self._awake()
        if await self._begin():
            await self._answer(route, request)
        if self._engine.faults.spend("exit-after"):
            self._exit()

    async def _awake(self) -> None:
        """SGLang does not look whether it sleeps."""
        if self._engine.options.dialect is DialectName.SGLANG and not self._engine.awake.is_set():
            raise CrashError("Scheduler hit an exception: CUDA error: an illegal memory access was encountered")
        await self._engine.awake.wait()

    async def _answer(self, route: Route, request: Request) -> None:
        try:
            body = self._body(request)
            if route is Route.EMBEDDING:
                ask = self._dialect.reader.embed(body)
                await self._encode(sum(len(one) for one in ask.inputs), lambda: self._dialect.writer.embeddings(ask))
            elif route in POOLED:
                pooled = self._engine.pooling.answer(route, body)
                await self._encode(pooled.tokens, lambda: pooled.body)
            else:
                await self._generate(self._dialect.reader.ask(route, body, request.headers))
        except InvalidError as problem:
            await self._out.page(self._dialect.invalid(problem, request.path))
        except RefusalError as problem:
            await self._out.page(self._dialect.refused(problem))
        except _MediaTypeError:
            await self._out.page(self._dialect.wrong_media_type())

    async def _begin(self) -> bool:
        """False where the faults have answered already."""
        effects = self._effects
        if effects.reset:
            await self._out.reset()
            return False
        if self._engine.faults.value("wedged") is not None or math.isinf(effects.hang_s):
            await forever()
        await asyncio.sleep(effects.hang_s)
        if effects.status is not None:
            await self._out.page(broken(self._dialect, effects.status))
        elif effects.null:
            await self._out.page(Page(body=b"null"))
        return effects.status is None and not effects.null

    def _body(self, request: Request) -> Json:
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json" and not media_type.endswith("+json"):
            raise _MediaTypeError
        return body_validation.load(request.body)

    async def _encode(self, tokens: int, answer: Callable[[], bytes]) -> None:
        """What a model does that writes no text."""
        if await self._full(stream=False):
            return
        async with self._engine.live("", tokens), self._engine.place():
            await self._engine.clock().until(1)
            if not await self._ended(0):
                await self._out.page(Page(body=answer()))
                self._engine.done("stop")

    async def _generate(self, ask: Ask) -> None:
        """The head of a stream is sent before the request has its place, as the engines do."""
        made = scripts(ask, self._engine.tokenizer, self._engine.options.text)
        if await self._full(stream=ask.stream):
            return
        async with self._engine.live(ask.request_id, ask.prompt_tokens) as live:
            try:
                if ask.stream:
                    await self._out.start(_STREAM)
                async with self._engine.place():
                    await (self._stream if ask.stream else self._whole)(ask, made, live, self._engine.clock())
            except asyncio.CancelledError:
                if live.interrupt is None:
                    raise  # the client has gone
                live.task.uncancel()
                await self._interrupted(ask, made, live)

    async def _whole(self, ask: Ask, made: tuple[Script, ...], live: Live, clock: Clock) -> None:
        longest = max(len(script.pieces) for script in made)
        ending = self._effects.ending
        tokens = longest if ending is None else min(longest, ending.after_tokens)
        await self._first(clock)
        await clock.until(max(1, tokens))
        if self._engine.token(live, sum(min(tokens, len(script.pieces)) for script in made)):
            self._exit()
            await forever()
        if await self._ended(tokens):
            return
        page = Page(body=self._dialect.writer.answer(ask, made))
        if self._effects.garbage_after is not None:
            await self._out.cut_page(page)
            return
        await self._out.page(page)
        self._done(made)

    async def _stream(self, ask: Ask, made: tuple[Script, ...], live: Live, clock: Clock) -> None:
        """An ending comes before the first frame that is due after its tokens."""
        await self._first(clock)
        at, garbage = 0, self._effects.garbage_after
        for step, data in self._dialect.writer.frames(ask, made):
            if await self._cut(step, data):
                return
            if garbage is not None and step > garbage:
                garbage = None
                await self._out.frame(_GARBAGE)
            if step > at:
                fresh = sum(at < len(script.pieces) for script in made)
                at = step
                await clock.until(step)
                if self._engine.token(live, fresh):
                    self._exit()
                    await forever()
            await self._out.frame(data)
        await self._out.finish()
        self._done(made)

    async def _first(self, clock: Clock) -> None:
        started = time.monotonic()
        await clock.until(1)
        self._engine.first_token(time.monotonic() - started)

    async def _cut(self, step: int, data: bytes) -> bool:
        """Whether a stream has ended before this frame, and ends it."""
        ending = self._effects.ending
        if ending is None or step <= ending.after_tokens:
            return False
        if ending.how is How.HALF_CHARACTER and first_long_character(data) == -1:
            return False
        await self._end(ending, data)
        return True

    async def _end(self, ending: Ending, data: bytes) -> None:
        out = self._out
        match ending.how:
            case How.CUT:
                await out.finish()
            case How.STALL:
                await out.flush()
                await forever()
            case How.RESET:
                await out.reset()
            case How.HALF_CHUNK:
                await out.half_chunk(data)
            case How.HALF_CHARACTER:
                await out.half_character(data)
            case How.ERROR:
                await self._fail()
            case How.CLOSE:
                await out.flush()
                out.close()

    async def _ended(self, tokens: int) -> bool:
        """The same for a whole answer, of which nothing was sent."""
        ending = self._effects.ending
        if ending is None or ending.after_tokens > tokens:
            return False
        match ending.how:
            case How.ERROR:
                await self._fail()
            case How.STALL:
                await forever()
            case How.RESET:
                await self._out.reset()
            case _:
                self._out.close()
        return True

    async def _fail(self) -> None:
        """The engine's own failure, at any point of an answer."""
        self._engine.done("error")
        if not self._out.begun:
            await self._out.page(broken(self._dialect, 500))
            return
        data = self._dialect.broken_stream()
        await self._out.flush()
        if data:
            await self._out.frame(data)
            await self._out.finish()
        else:
            self._out.close()

    async def _interrupted(self, ask: Ask, made: tuple[Script, ...], live: Live) -> None:
        if live.interrupt is Interrupt.SHUTDOWN:
            await self._fail()
            return
        said = min(live.tokens // ask.choices, max(len(script.pieces) for script in made))
        cut = tuple(_aborted(script, said) for script in made)
        if self._out.begun:
            for step, data in self._dialect.writer.frames(ask, cut):
                if step > said:
                    await self._out.frame(data)
            await self._out.finish()
        else:
            await self._out.page(Page(body=self._dialect.writer.answer(ask, cut)))
        self._engine.done("abort")

    async def _full(self, *, stream: bool) -> bool:
        """Whether the queue has no room, which is the answer then; TensorRT-LLM's has no end."""
        page = self._dialect.full(stream=stream)
        if page is None:
            return False
        try:
            self._engine.check_queue()
        except QueueFullError:
            if page.content_type == _STREAM:
                await self._out.start(_STREAM)
                await self._out.frame(page.body)
                await self._out.finish()
            else:
                await self._out.page(page)
            return True
        return False

    def _exit(self) -> None:
        """Ends the process in a moment, so that what was written goes out first."""
        asyncio.get_running_loop().call_later(0.02, self._engine.exit, 1)

    def _done(self, made: tuple[Script, ...]) -> None:
        for script in made:
            self._engine.done("length" if script.finish == "length" else "stop")


class _MediaTypeError(Exception):
    pass


async def forever() -> None:
    """Until the task is cancelled."""
    await asyncio.get_running_loop().create_future()


def _aborted(script: Script, said: int) -> Script:
    """What was said so far; an empty piece carries the end of a completion."""
    end = Piece(kind=Kind.CONTENT, text="", token=0)
    return replace(script, pieces=(*script.pieces[:said], end), finish="abort", stop=None, tokens=said)

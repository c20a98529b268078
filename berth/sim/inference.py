"""Answers one inference request: reads it, waits as long as an engine would, and fails as it was told to."""

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import replace

from berth.plan import DialectName
from berth.sim import body_validation
from berth.sim.active_faults import Effects, Ending, EndingKind
from berth.sim.body_validation import InvalidError, Json, RejectionError
from berth.sim.dialect import CrashError, Response, Route, engine_error
from berth.sim.engine import ActiveRequest, Clock, Engine, Interrupt, QueueFullError
from berth.sim.generation import Generation, GenerationRequest, Kind, Piece, generations
from berth.sim.http.response_writer import Request, ResponseWriter, first_long_character
from berth.sim.pooling import POOLING_ROUTES
from berth.sse import frame

_STREAM = "text/event-stream; charset=utf-8"
_GARBAGE = frame(b'{"id":"garbage","choi')


class Inference:
    """One request on its way through the engine."""

    def __init__(self, engine: Engine, writer: ResponseWriter) -> None:
        self._engine = engine
        self._dialect = engine.dialect
        self._writer = writer
        self._effects: Effects = writer.effects

    async def run(self, route: Route, request: Request) -> None:
        """CrashError goes to the caller; everything else is answered here."""
        self._effects = self._writer.effects = self._engine.faults.take()
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
                parsed = self._dialect.parser.parse_embedding(body)
                await self._encode(
                    sum(len(one) for one in parsed.inputs), lambda: self._dialect.formatter.embeddings(parsed)
                )
            elif route in POOLING_ROUTES:
                pooled = self._engine.pooling.answer(route, body)
                await self._encode(pooled.tokens, lambda: pooled.body)
            else:
                await self._generate(self._dialect.parser.parse_generation(route, body, request.headers))
        except InvalidError as problem:
            await self._writer.send(self._dialect.invalid(problem, request.path))
        except RejectionError as problem:
            await self._writer.send(self._dialect.rejected(problem))
        except _MediaTypeError:
            await self._writer.send(self._dialect.wrong_media_type())

    async def _begin(self) -> bool:
        """False where the faults have answered already."""
        effects = self._effects
        if effects.reset:
            await self._writer.reset()
            return False
        if self._engine.faults.value("wedged") is not None or math.isinf(effects.hang_s):
            await wait_forever()
        await asyncio.sleep(effects.hang_s)
        if effects.status is not None:
            await self._writer.send(engine_error(self._dialect, effects.status))
        elif effects.null:
            await self._writer.send(Response(body=b"null"))
        return effects.status is None and not effects.null

    def _body(self, request: Request) -> Json:
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json" and not media_type.endswith("+json"):
            raise _MediaTypeError
        return body_validation.parse_object(request.body)

    async def _encode(self, tokens: int, answer: Callable[[], bytes]) -> None:
        """What a model does that writes no text."""
        if await self._full(stream=False):
            return
        async with self._engine.track("", tokens), self._engine.slot():
            await self._engine.clock().until(1)
            if not await self._ended(0):
                await self._writer.send(Response(body=answer()))
                self._engine.record_finish("stop")

    async def _generate(self, parsed: GenerationRequest) -> None:
        """The head of a stream is sent before the request has its place, as the engines do."""
        made = generations(parsed, self._engine.tokenizer, self._engine.options.text)
        if await self._full(stream=parsed.stream):
            return
        async with self._engine.track(parsed.request_id, parsed.prompt_tokens) as active:
            try:
                if parsed.stream:
                    await self._writer.start(_STREAM)
                async with self._engine.slot():
                    await (self._stream if parsed.stream else self._whole)(parsed, made, active, self._engine.clock())
            except asyncio.CancelledError:
                if active.interrupt is None:
                    raise  # the client has gone
                active.task.uncancel()
                await self._interrupted(parsed, made, active)

    async def _whole(
        self, parsed: GenerationRequest, made: tuple[Generation, ...], active: ActiveRequest, clock: Clock
    ) -> None:
        longest = max(len(generation.pieces) for generation in made)
        ending = self._effects.ending
        tokens = longest if ending is None else min(longest, ending.after_tokens)
        await self._first(clock)
        await clock.until(max(1, tokens))
        if self._engine.count_tokens(active, sum(min(tokens, len(generation.pieces)) for generation in made)):
            self._exit()
            await wait_forever()
        if await self._ended(tokens):
            return
        response = Response(body=self._dialect.formatter.response(parsed, made))
        if self._effects.garbage_after is not None:
            await self._writer.send_half(response)
            return
        await self._writer.send(response)
        self._done(made)

    async def _stream(
        self, parsed: GenerationRequest, made: tuple[Generation, ...], active: ActiveRequest, clock: Clock
    ) -> None:
        """An ending comes before the first frame that is due after its tokens."""
        await self._first(clock)
        at, garbage = 0, self._effects.garbage_after
        for step, data in self._dialect.formatter.frames(parsed, made):
            if await self._cut(step, data):
                return
            if garbage is not None and step > garbage:
                garbage = None
                await self._writer.frame(_GARBAGE)
            if step > at:
                fresh = sum(at < len(generation.pieces) for generation in made)
                at = step
                await clock.until(step)
                if self._engine.count_tokens(active, fresh):
                    self._exit()
                    await wait_forever()
            await self._writer.frame(data)
        await self._writer.finish()
        self._done(made)

    async def _first(self, clock: Clock) -> None:
        started = time.monotonic()
        await clock.until(1)
        self._engine.record_first_token(time.monotonic() - started)

    async def _cut(self, step: int, data: bytes) -> bool:
        """Whether a stream has ended before this frame, and ends it."""
        ending = self._effects.ending
        if ending is None or step <= ending.after_tokens:
            return False
        if ending.kind is EndingKind.HALF_CHARACTER and first_long_character(data) == -1:
            return False
        await self._end(ending, data)
        return True

    async def _end(self, ending: Ending, data: bytes) -> None:
        writer = self._writer
        match ending.kind:
            case EndingKind.CUT:
                await writer.finish()
            case EndingKind.STALL:
                await writer.flush()
                await wait_forever()
            case EndingKind.RESET:
                await writer.reset()
            case EndingKind.HALF_CHUNK:
                await writer.half_chunk(data)
            case EndingKind.HALF_CHARACTER:
                await writer.half_character(data)
            case EndingKind.ERROR:
                await self._fail()
            case EndingKind.CLOSE:
                await writer.flush()
                writer.close()

    async def _ended(self, tokens: int) -> bool:
        """The same for a whole answer, of which nothing was sent."""
        ending = self._effects.ending
        if ending is None or ending.after_tokens > tokens:
            return False
        match ending.kind:
            case EndingKind.ERROR:
                await self._fail()
            case EndingKind.STALL:
                await wait_forever()
            case EndingKind.RESET:
                await self._writer.reset()
            case _:
                self._writer.close()
        return True

    async def _fail(self) -> None:
        """The engine's own failure, at any point of an answer."""
        self._engine.record_finish("error")
        if not self._writer.begun:
            await self._writer.send(engine_error(self._dialect, 500))
            return
        data = self._dialect.stream_error()
        await self._writer.flush()
        if data:
            await self._writer.frame(data)
            await self._writer.finish()
        else:
            self._writer.close()

    async def _interrupted(
        self, parsed: GenerationRequest, made: tuple[Generation, ...], active: ActiveRequest
    ) -> None:
        if active.interrupt is Interrupt.SHUTDOWN:
            await self._fail()
            return
        said = min(active.tokens // parsed.choices, max(len(generation.pieces) for generation in made))
        cut = tuple(_aborted(generation, said) for generation in made)
        if self._writer.begun:
            for step, data in self._dialect.formatter.frames(parsed, cut):
                if step > said:
                    await self._writer.frame(data)
            await self._writer.finish()
        else:
            await self._writer.send(Response(body=self._dialect.formatter.response(parsed, cut)))
        self._engine.record_finish("abort")

    async def _full(self, *, stream: bool) -> bool:
        """Whether the queue has no room, which is the answer then; TensorRT-LLM's has no end."""
        response = self._dialect.queue_full(stream=stream)
        if response is None:
            return False
        try:
            self._engine.check_queue()
        except QueueFullError:
            if response.content_type == _STREAM:
                await self._writer.start(_STREAM)
                await self._writer.frame(response.body)
                await self._writer.finish()
            else:
                await self._writer.send(response)
            return True
        return False

    def _exit(self) -> None:
        """Ends the process in a moment, so that what was written goes out first."""
        asyncio.get_running_loop().call_later(0.02, self._engine.exit, 1)

    def _done(self, made: tuple[Generation, ...]) -> None:
        for generation in made:
            self._engine.record_finish("length" if generation.finish == "length" else "stop")


class _MediaTypeError(Exception):
    pass


async def wait_forever() -> None:
    """Until the task is cancelled."""
    await asyncio.get_running_loop().create_future()


def _aborted(generation: Generation, said: int) -> Generation:
    """What was said so far; an empty piece carries the end of a completion."""
    end = Piece(kind=Kind.CONTENT, text="", token=0)
    return replace(generation, pieces=(*generation.pieces[:said], end), finish="abort", stop=None, tokens=said)

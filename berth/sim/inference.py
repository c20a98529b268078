"""Handles one inference request: parses it, waits as long as an engine would, and fails as its faults demand."""

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import chain

import orjson

from berth.plan import DialectName
from berth.sim import body_validation
from berth.sim.body_validation import InvalidError, RejectionError
from berth.sim.common_responses import LIKELY
from berth.sim.dialect import CrashError, Response, Route, engine_error
from berth.sim.engine import ActiveRequest, Engine, Interrupt, QueueFullError
from berth.sim.faults.active import Effects, EndingKind
from berth.sim.generation import Generation, GenerationRequest, Kind, Piece, generations
from berth.sim.http.response_writer import Request, ResponseWriter, first_long_character
from berth.sim.load.pacer import Clock
from berth.sim.pooling import POOLING_ROUTES
from berth.sse import frame

_STREAM = "text/event-stream; charset=utf-8"
_GARBAGE = frame(b'{"id":"garbage","choi')
_EXIT_DELAY_S = 0.02  # what was written is sent first


class Inference:
    """One request on its way through the engine."""

    def __init__(self, engine: Engine, writer: ResponseWriter) -> None:
        self._engine = engine
        self._dialect = engine.dialect
        self._writer = writer
        self._effects: Effects = writer.effects

    async def run(self, route: Route, request: Request) -> None:
        """Raises CrashError only; every other error is a response."""
        engine = self._engine
        self._effects = self._writer.effects = engine.faults.take()
        await engine.going.wait()
        if engine.options.dialect is DialectName.SGLANG and not engine.awake.is_set():  # it does not check
            raise CrashError("Scheduler hit an exception: CUDA error: an illegal memory access was encountered")
        await engine.awake.wait()
        if not await self._failed_before():
            try:
                await self._respond(route, request)
            except InvalidError as problem:
                await self._writer.send(self._dialect.invalid(problem, request.path))
            except RejectionError as problem:
                await self._writer.send(self._dialect.rejected(problem))
        if engine.faults.spend("exit-after"):
            self._exit()

    async def _failed_before(self) -> bool:
        """Applies the faults that replace the response; False if there is none."""
        effects = self._effects
        if effects.reset:
            await self._writer.reset()
            return True
        if self._engine.faults.value("wedged") is not None or math.isinf(effects.hang_s):
            await wait_forever()
        await asyncio.sleep(effects.hang_s)
        if effects.status is not None:
            await self._writer.send(engine_error(self._dialect, effects.status))
        elif effects.null:
            await self._writer.send(Response(body=b"null"))
        return effects.status is not None or effects.null

    async def _respond(self, route: Route, request: Request) -> None:
        """InvalidError and RejectionError."""
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json" and not media_type.endswith("+json"):
            await self._writer.send(self._dialect.wrong_media_type())
            return
        body = body_validation.parse_object(request.body)
        if route is Route.EMBEDDING:
            embedding = self._dialect.parser.parse_embedding(body)
            tokens = sum(len(one) for one in embedding.inputs)
            await self._pool(tokens, lambda: self._dialect.formatter.embeddings(embedding))
        elif route in POOLING_ROUTES:
            pooled = self._engine.pooling.respond(route, body)
            await self._pool(pooled.tokens, lambda: pooled.body)
        else:
            await self._generate(self._dialect.parser.parse_generation(route, body, request.headers))

    async def _pool(self, tokens: int, body: Callable[[], bytes]) -> None:
        """Inference without generated text."""
        if await self._queue_full(stream=False):
            return
        async with self._engine.track("", tokens), self._engine.slot():
            await self._engine.clock().until(1)
            if not await self._failed_full(0):
                await self._writer.send(Response(body=body()))
                self._engine.record_finish("stop")

    async def _generate(self, request: GenerationRequest) -> None:
        """The head of a stream is sent before the request has its slot, as the engines do."""
        options = self._engine.options
        made = generations(request, self._engine.tokenizer, options.text, options.differs, options.seed)
        if await self._queue_full(stream=request.stream):
            return
        async with self._engine.track(request.request_id, request.prompt_tokens) as active:
            try:
                if request.stream:
                    await self._writer.start(_STREAM)
                prompt, tokens = tuple(chain.from_iterable(request.prompts)), max(one.tokens for one in made)
                started = time.monotonic()
                async with self._engine.slot(), self._engine.paced(prompt, tokens) as clock:
                    await clock.until(1)
                    self._engine.record_first_token(time.monotonic() - started, clock.cached)
                    request = replace(request, cached_tokens=clock.cached)
                    await (self._stream if request.stream else self._send_full)(request, made, active, clock)
            except asyncio.CancelledError:
                if active.interrupt is None:
                    raise  # the client has disconnected
                active.task.uncancel()
                await self._finish_interrupted(request, made, active)

    async def _send_full(
        self, request: GenerationRequest, made: tuple[Generation, ...], active: ActiveRequest, clock: Clock
    ) -> None:
        longest = max(len(one.pieces) for one in made)
        ending = self._effects.ending
        tokens = longest if ending is None else min(longest, ending.after_tokens)
        await clock.until(max(1, tokens))
        await self._count_tokens(active, sum(min(tokens, len(one.pieces)) for one in made))
        if await self._failed_full(tokens):
            return
        response = Response(body=self._dialect.formatter.response(request, made))
        is_damaged = self._engine.lost_weights or self._engine.faults.value("bad-weights") is not None
        if request.top_logprobs is not None and is_damaged:
            if self._engine.options.dialect is not DialectName.SGLANG:  # their JSON writers raise an exception
                await self._fail()
                return
            response = replace(response, body=response.body.replace(orjson.dumps(LIKELY), b"null"))
        if self._effects.garbage_after is not None:
            await self._writer.send_half(response)
            return
        await self._writer.send(response)
        self._record_finished(made)

    async def _stream(
        self, request: GenerationRequest, made: tuple[Generation, ...], active: ActiveRequest, clock: Clock
    ) -> None:
        """An ending comes before the first frame that is due after its tokens."""
        sent, garbage_after = 0, self._effects.garbage_after
        for step, data in self._dialect.formatter.frames(request, made):
            if await self._ended_stream(step, data):
                return
            if garbage_after is not None and step > garbage_after:
                garbage_after = None
                await self._writer.frame(_GARBAGE)
            if step > sent:
                new_tokens = sum(sent < len(one.pieces) for one in made)
                sent = step
                await clock.until(step)
                await self._count_tokens(active, new_tokens)
            await self._writer.frame(data)
        await self._writer.finish()
        self._record_finished(made)

    async def _count_tokens(self, active: ActiveRequest, tokens: int) -> None:
        """Does not return if the process is to exit because of them, or generates nothing any more."""
        if self._engine.faults.value("wedged") is not None:
            await wait_forever()
        if not self._engine.going.is_set():
            await self._engine.going.wait()
        if self._engine.count_tokens(active, tokens):
            self._exit()
            await wait_forever()

    async def _ended_stream(self, step: int, data: bytes) -> bool:
        """Applies the ending before a frame if it is due; False if none is."""
        ending, writer = self._effects.ending, self._writer
        if ending is None or step <= ending.after_tokens:
            return False
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
                if first_long_character(data) == -1:
                    return False
                await writer.half_character(data)
            case EndingKind.ERROR:
                await self._fail()
            case EndingKind.CLOSE:
                await writer.flush()
                writer.close()
        return True

    async def _failed_full(self, tokens: int) -> bool:
        """Applies the ending to a full response, of which nothing was sent; False if none is due."""
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
        """The engine's own failure, at any point of a response."""
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

    async def _finish_interrupted(
        self, request: GenerationRequest, made: tuple[Generation, ...], active: ActiveRequest
    ) -> None:
        """After an abort the response ends with what was generated; an empty piece carries the end of a completion."""
        if active.interrupt is Interrupt.SHUTDOWN:
            await self._fail()
            return
        done = min(active.tokens // request.choices, max(len(one.pieces) for one in made))
        end = Piece(kind=Kind.CONTENT, text="", token=0)
        aborted = tuple(
            replace(one, pieces=(*one.pieces[:done], end), finish="abort", stop=None, tokens=done) for one in made
        )
        if self._writer.begun:
            for step, data in self._dialect.formatter.frames(request, aborted):
                if step > done:
                    await self._writer.frame(data)
            await self._writer.finish()
        else:
            await self._writer.send(Response(body=self._dialect.formatter.response(request, aborted)))
        self._engine.record_finish("abort")

    async def _queue_full(self, *, stream: bool) -> bool:
        """Rejects the request if the queue is full. TensorRT-LLM's is unlimited."""
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
        asyncio.get_running_loop().call_later(_EXIT_DELAY_S, self._engine.exit, 1)

    def _record_finished(self, made: tuple[Generation, ...]) -> None:
        for one in made:
            self._engine.record_finish("length" if one.finish == "length" else "stop")


async def wait_forever() -> None:
    """Until the task is cancelled."""
    await asyncio.get_running_loop().create_future()

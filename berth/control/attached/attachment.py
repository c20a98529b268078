"""What control asks the attached servers, which it can neither start nor stop.

1. Whether they are well: at every probe, a GET of the first of the dialect's paths that the server has.
2. What they are: once, where they did not answer when the plan was made.
3. For one token: when a server is attached, and each time that it has recovered. Only an answer shows that the key and
   the name of the model are right, and that the generator lives; most servers list their models without either. Where
   an answer costs money, it costs one token.
4. Whether they continue an answer: after the token. It may be the client's own, or that of a replica with the same
   weights. Many servers ignore the fields that ask for it, and begin again: the client would get its text twice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlsplit

from berth.canonical import EngineResponse, Failure, FailureKind, InferenceRequest, Json, Operation
from berth.control.attached.continuation_check import continued_operations
from berth.control.probes import Prober, Response
from berth.dialects.attached.detection import PATHS, Answer, identify, settle
from berth.dialects.base import UnsupportedError
from berth.dialects.failures import MISSING_ENDPOINT, failure_of
from berth.dialects.registry import dialect_of
from berth.engines.registry import probes
from berth.errors import LoopDetectedError
from berth.plan import API_PATH, Discovered, EngineName, Plan, Probe, Replica, Task
from berth.state import AttachedFault

_FIRST_REQUESTS: Final[Mapping[Task, Sequence[tuple[Operation, Json]]]] = {  # in turn, until one is answered
    Task.GENERATE: (
        (Operation.CHAT, {"messages": [{"role": "user", "content": "."}], "max_tokens": 1}),
        (Operation.COMPLETION, {"prompt": ".", "max_tokens": 1}),
    ),
    Task.EMBED: ((Operation.EMBEDDING, {"input": "."}),),
    Task.RERANK: ((Operation.RERANK, {"query": ".", "documents": ["."]}),),
    Task.CLASSIFY: ((Operation.CLASSIFY, {"input": "."}),),
}
_ALIVE: Final = frozenset({FailureKind.CLIENT, FailureKind.UNSUPPORTED, FailureKind.OVERLOADED})
_REFUSED: Final = frozenset({401, 402, 403})
_DISCOVERY_S: Final = 2.0  # for each path


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was found out about an attached server; no error: it is well."""

    error: str = ""  # begins with an AttachedFault
    loading: bool = False  # the error is that it is not ready yet
    exists: bool = True  # one of the probed paths does
    continues: tuple[str, ...] | None = None  # operations; None: not asked


class Attachments:
    """Never raises."""

    def __init__(self, prober: Prober, plan: Plan) -> None:
        self._prober = prober
        self._limit_s = plan.limits.first_token_timeout_s
        self._replicas = {replica.name: replica for replica in plan.replicas}
        self._paths: dict[str, str] = {}  # replica -> the path that it has

    async def health(self, replica: Replica, probe: Probe) -> Finding:
        """By one path after another, that which it had last time first."""
        paths = (probe.path, *probe.otherwise)
        known = self._paths.pop(replica.name, "")
        for path in dict.fromkeys((known, *paths) if known else paths):
            response = await self._prober.request(replica, probe.method, path, None, probe.timeout_s)
            if isinstance(response, str):
                return _silent(response)
            if response.ok or response.status == 503 or path == paths[-1]:
                self._paths[replica.name] = path
                refused = response.status >= 500 or response.status in _REFUSED
                return _fault(replica, response, path) if refused else Finding(exists=response.ok)
        return Finding(exists=False)

    async def first_token(self, replica: Replica, health: Finding) -> Finding:
        """One token, or whatever a model of its task responds with; then whether it continues an answer. Of a server
        that has neither chats nor completions, only its health is known: it may generate images. A Berth that could
        only ask this one is not well.
        """
        found: Finding | None = None
        for operation, body in _FIRST_REQUESTS[replica.task]:
            response, answer = await self._ask(replica, operation, body)
            if response is None:
                continue
            if isinstance(response, str):
                return _silent(response)
            kind = answer.kind if isinstance(answer, Failure) else None
            if isinstance(answer, Failure) and answer.code == LoopDetectedError.code:
                return Finding(error=f"{AttachedFault.FAILING}: {answer.message}")
            is_missing = response.status in MISSING_ENDPOINT and kind is not FailureKind.CONFIG
            if kind is None or (kind in _ALIVE and not is_missing):
                return Finding(continues=await self.continued(replica))
            fault = _fault(replica, response)
            if fault.loading or kind is FailureKind.CONFIG:
                return fault
            if not (is_missing and health.exists):
                found = found or fault
        return found or Finding()

    async def continued(self, replica: Replica) -> tuple[str, ...] | None:
        """None where no answer needs to be continued, or it is known whether it can be."""
        dialect = dialect_of(replica)
        known = {Operation.CHAT: dialect.continues_chat, Operation.COMPLETION: dialect.continues_completion}
        if not any(map(replica.same_weights, self._replicas.values())):
            known[Operation.COMPLETION] = False  # only chats bring an answer that is not Berth's
        if replica.continues is not None or None not in known.values() or replica.task is not Task.GENERATE:
            return None

        async def generate(operation: Operation, body: Json) -> EngineResponse | None:
            _, answer = await self._ask(replica, operation, body)
            return answer if isinstance(answer, EngineResponse) else None

        return await continued_operations(generate, known)

    async def _ask(
        self, replica: Replica, operation: Operation, body: Json
    ) -> tuple[Response | str | None, EngineResponse | Failure | None]:
        """The response or the error, and what the dialect reads in it. None: the dialect cannot ask for it."""
        dialect = dialect_of(replica)
        request = InferenceRequest(operation=operation, model=replica.model, body=body)
        try:
            sent = dialect.request(request, replica.served_name)
        except UnsupportedError:
            return None, None
        response = await self._prober.request(replica, "POST", sent.path, sent.body, self._limit_s)
        if isinstance(response, str):
            return response, None
        return response, dialect.answer(request, replica.model, response.status, response.body)

    async def discover(self, replica: Replica) -> Discovered | None:
        """What the server says that it is; None where it does not answer."""
        api_paths = (replica.api_path, "" if replica.api_path else API_PATH)
        as_written = replace(replica, api_path=API_PATH)  # both paths are asked for as they are
        answers: dict[str, Answer | None] = {}
        for path in (*(f"{api_path}/models" for api_path in api_paths), *PATHS):
            response = await self._prober.request(as_written, "GET", path, None, _DISCOVERY_S)
            answers[path] = (
                None if isinstance(response, str) else Answer.of(response.status, response.headers, response.body)
            )
        found = identify(answers.get, urlsplit(replica.url).hostname or "", api_paths, replica.served_name)
        if not found.reached:
            return None
        known = settle(replica, found)
        self._replicas[replica.name] = replica.as_discovered(known)
        return known


def as_discovered(replica: Replica, found: Discovered) -> Replica:
    """With the probes of its dialect."""
    ready, alive = probes(EngineName.REMOTE, found.dialect)
    return replace(replica.as_discovered(found), ready=ready, alive=alive)


def _silent(error: str) -> Finding:
    fault = AttachedFault.NO_CONNECTION if error.startswith("cannot connect") else AttachedFault.NO_ANSWER
    return Finding(error=f"{fault}: {error}")


def _fault(replica: Replica, response: Response, path: str = "") -> Finding:
    """`path`: where it is not an inference request."""
    failure = failure_of(response.status, response.body, judge=dialect_of(replica).judge)
    message = f"{path} returned {response.status}" if path else failure.message
    if failure.kind is FailureKind.LOADING or (response.status == 503 and "retry-after" in response.headers):
        return Finding(error=f"{AttachedFault.LOADING}: {failure.message}", loading=True)
    if response.status in _REFUSED:
        return Finding(error=f"{AttachedFault.WRONG_KEY}: {failure.message}")
    if failure.kind is FailureKind.CONFIG:
        return Finding(error=f"{AttachedFault.UNKNOWN_MODEL}: {failure.message}")
    return Finding(error=f"{AttachedFault.FAILING}: {message}")

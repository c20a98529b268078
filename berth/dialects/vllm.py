"""vLLM's spelling of OpenAI's API. Checked against the responses of 0.33.0."""

from dataclasses import replace

from berth.canonical import EngineResponse, Failure, InferenceRequest, Json, Operation, UpstreamRequest
from berth.dialects import pooling, request_checks, tokenize
from berth.dialects.answers import name_reasoning, read_answer, upstream_body, upstream_request
from berth.dialects.base import StreamDecoder, UnsupportedError
from berth.dialects.fields import read_by
from berth.dialects.media import asking_for_usage, media_request
from berth.dialects.media_stream import MediaStreamDecoder
from berth.dialects.stream_decoder import OpenaiStreamDecoder, expected_choices
from berth.dialects.structured_output import split_constraint
from berth.plan import DialectName, Task

MOST_STOPS = 4  # in a chat


class VllmDialect:
    name = DialectName.VLLM

    def request(
        self,
        request: InferenceRequest,
        served_name: str,
        *,
        task: Task | None = None,
        vocab_size: int | None = None,
    ) -> UpstreamRequest:
        request_checks.check(request, vocab_size=vocab_size, task=task, dialect=self.name)
        served_name = request.adapter or served_name
        if request.operation is Operation.MEDIA:
            return asking_for_usage(request, media_request(request, served_name))
        if request.operation in pooling.POOLING:
            return pooling.vllm_request(request, served_name)
        if request.operation in tokenize.TOKENS:
            return _of_tokens(request, served_name)
        body, constraint = split_constraint(upstream_body(request, served_name))
        if body.pop("no_stop_trim", None):
            body["include_stop_str_in_output"] = True
        body, ignored = read_by(self.name, body, request.operation, "vLLM")
        if constraint is not None:
            body["structured_outputs"] = {**constraint.options, constraint.kind: constraint.value}
        if request.operation is Operation.CHAT:
            _spell_chat(body)
        return upstream_request(request, body, ignored)

    def answer(self, request: InferenceRequest, model: str, status: int, body: bytes) -> EngineResponse | Failure:
        return read_answer(request, model, status, body)

    def stream(self, request: InferenceRequest, model: str) -> StreamDecoder:
        if request.media is not None:
            return MediaStreamDecoder(request, model)
        return OpenaiStreamDecoder(request, model, choices=expected_choices(request))


def _of_tokens(request: InferenceRequest, served_name: str) -> UpstreamRequest:
    body = dict(request.body)
    name_reasoning(body, "reasoning")
    return tokenize.vllm_request(replace(request, body=body), served_name)


def _spell_chat(body: Json) -> None:
    stop = body.get("stop")
    if isinstance(stop, list) and len(stop) > MOST_STOPS:
        raise UnsupportedError(f"vLLM takes up to {MOST_STOPS} stop strings, not {len(stop)}", param="stop")
    name_reasoning(body, "reasoning")
    if body.get("continue_final_message"):
        body.setdefault("add_generation_prompt", False)  # the default, True, would be a contradiction: 400

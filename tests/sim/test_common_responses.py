import json
import re

from berth.sim import common_responses
from berth.sim.generation import Generation, GenerationRequest, Kind, Piece, generations
from berth.sim.vllm.responses import VllmFormatter
from tests.sim.harness import setup

CALL = (
    Piece(kind=Kind.TOOL_NAME, text="f", token=1),
    Piece(kind=Kind.ARGUMENTS, text="{", token=2),
    Piece(kind=Kind.ARGUMENTS, text="}", token=3),
)


def test_frames_of_several_choices_come_in_token_order() -> None:
    made = setup()
    request = GenerationRequest(chat=False, model="m", prompts=((1,),), n=2, max_tokens=9, usage=True)
    steps, frames = zip(
        *VllmFormatter(made).frames(request, generations(request, made.tokenizer, "a b c")), strict=True
    )
    assert steps == (1, 1, 2, 2, 3, 3, 4, 4, 4, 4)
    assert [json.loads(one[6:])["choices"][0]["index"] for one in frames[:-2]] == [0, 1] * 4
    assert b'"usage"' in frames[-2]
    assert frames[-1] == b"data: [DONE]\n\n"


def test_formats_stream_errors_with_spaces() -> None:
    assert common_responses.python_json_frame({"error": {"code": 1}}) == b'data: {"error": {"code": 1}}\n\n'


def test_ids_are_hexadecimal_and_unique() -> None:
    assert re.fullmatch(r"[0-9a-f]{24}", common_responses.hex_id(24))
    assert common_responses.hex_id() != common_responses.hex_id()


def test_the_token_itself_is_the_most_likely() -> None:
    made = setup()
    token = made.tokenizer.encode(" train")[0]
    shown = common_responses.token_logprobs(made, token, 3)
    assert [value for _, value in shown] == sorted((value for _, value in shown), reverse=True)
    piece = Piece(kind=Kind.CONTENT, text=" train", token=token)
    told = common_responses.chat_logprobs(made, 3, [piece], bytes_first=True)
    assert told is not None
    (entry,) = told["content"]
    assert (list(entry), entry["bytes"]) == (["token", "bytes", "logprob", "top_logprobs"], list(b" train"))
    assert entry["top_logprobs"][0]["token"] == " train"
    bare = {"token": " train", "logprob": entry["logprob"], "bytes": entry["bytes"], "top_logprobs": []}
    assert common_responses.chat_logprobs(made, 0, [piece], bytes_first=False) == {"content": [bare]}


def test_no_logprobs_without_request_or_token() -> None:
    piece = Piece(kind=Kind.CONTENT, text=" train", token=1)
    assert common_responses.chat_logprobs(setup(), None, [piece], bytes_first=True) is None
    assert common_responses.chat_logprobs(setup(), 3, [], bytes_first=True) is None


def test_offsets_count_characters_and_the_first_echoed_token_has_no_logprob() -> None:
    made = setup()
    prompt, said = made.tokenizer.encode("The night"), made.tokenizer.encode(" train")
    pieces = [Piece(kind=Kind.CONTENT, text="", token=token) for token in said]
    lists = common_responses.completion_logprobs(made, pieces, 1, prompt=prompt)
    assert (lists["tokens"], lists["text_offset"]) == (["The", " night", " train"], [0, 3, 9])
    assert (lists["token_logprobs"][0], lists["top_logprobs"][0]) == (None, None)


def test_incomplete_tool_call_is_none() -> None:
    whole = Generation(pieces=CALL, finish="tool_calls", tokens=4)
    assert common_responses.tool_call(whole) == ("f", "{}")
    assert common_responses.tool_call(Generation(pieces=CALL[:2], finish="length", tokens=2)) is None

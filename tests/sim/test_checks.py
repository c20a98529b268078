import pytest

from berth.sim import checks
from berth.sim.bodies import InvalidError, Json, RefusalError


@pytest.mark.parametrize(
    ("table", "body", "message"),
    [
        (
            checks.VLLM,
            {"temperature": -1},
            "temperature must be non-negative, got -1.0. (parameter=temperature, value=-1.0)",
        ),
        (checks.VLLM, {"n": 0}, "n must be at least 1, got 0."),
        (checks.VLLM, {"min_p": 2}, "min_p must be in [0, 1], got 2.0."),
        (checks.SGLANG, {"temperature": float("inf")}, "temperature must be a non-negative finite number, got inf."),
        (checks.SGLANG, {"frequency_penalty": 3}, "frequency_penalty must be in [-2, 2], got 3.0."),
        (checks.TRTLLM, {"top_k": -1}, "require top_k >= 0, got top_k=-1"),
    ],
)
def test_a_value_out_of_range_is_refused_in_the_engines_words(
    table: tuple[checks.Check, ...], body: Json, message: str
) -> None:
    with pytest.raises(RefusalError) as error:
        checks.run(table, body)
    assert error.value.message == message


def test_what_is_allowed_or_absent_passes() -> None:
    for table in (checks.VLLM, checks.SGLANG, checks.TRTLLM):
        checks.run(table, {"temperature": 0, "top_p": 1.0, "n": 1, "max_tokens": 5, "min_p": None})


def test_shapes_of_messages_formats_and_options() -> None:
    checks.message_content({"role": "assistant", "content": None}, (), 1)
    with pytest.raises(InvalidError):
        checks.message_content({"role": "user"}, (), 1)
    checks.response_format({"response_format": {"type": "text"}}, ())
    with pytest.raises(InvalidError):
        checks.response_format({"response_format": {"type": "grammar"}}, ())
    assert not checks.stop_strings({"stop": ["a", "b"]}, 1)
    assert not checks.stream_options({"stream_options": {}})
    assert checks.stream_options({"stream_options": {}, "stream": True})

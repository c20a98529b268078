import pytest

from berth.sim import field_limits
from berth.sim.body_validation import InvalidError, Json, RejectionError


@pytest.mark.parametrize(
    ("table", "body", "message"),
    [
        (
            field_limits.VLLM,
            {"temperature": -1},
            "temperature must be non-negative, got -1.0. (parameter=temperature, value=-1.0)",
        ),
        (field_limits.VLLM, {"n": 0}, "n must be at least 1, got 0."),
        (field_limits.VLLM, {"min_p": 2}, "min_p must be in [0, 1], got 2.0."),
        (
            field_limits.SGLANG,
            {"temperature": float("inf")},
            "temperature must be a non-negative finite number, got inf.",
        ),
        (field_limits.SGLANG, {"frequency_penalty": 3}, "frequency_penalty must be in [-2, 2], got 3.0."),
        (field_limits.TRTLLM, {"top_k": -1}, "require top_k >= 0, got top_k=-1"),
    ],
)
def test_rejects_values_out_of_range_with_the_engines_message(
    table: tuple[field_limits.Limit, ...], body: Json, message: str
) -> None:
    with pytest.raises(RejectionError) as error:
        field_limits.check(table, body)
    assert error.value.message == message


def test_accepts_allowed_and_absent_values() -> None:
    for table in (field_limits.VLLM, field_limits.SGLANG, field_limits.TRTLLM):
        # passes: no exception
        field_limits.check(table, {"temperature": 0, "top_p": 1.0, "n": 1, "max_tokens": 5, "min_p": None})


def test_checks_messages_formats_and_options() -> None:
    field_limits.check_message_content({"role": "assistant", "content": None}, (), 1)
    with pytest.raises(InvalidError):
        field_limits.check_message_content({"role": "user"}, (), 1)
    field_limits.check_response_format({"response_format": {"type": "text"}}, ())
    with pytest.raises(InvalidError):
        field_limits.check_response_format({"response_format": {"type": "grammar"}}, ())
    assert not field_limits.has_allowed_stop_count({"stop": ["a", "b"]}, 1)
    assert not field_limits.has_allowed_stream_options({"stream_options": {}})
    assert field_limits.has_allowed_stream_options({"stream_options": {}, "stream": True})

from typing import Any

from berth.apis.responses.items import read_items
from berth.apis.responses.messages import messages_of
from berth.canonical import Json

CALL: Json = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a":1}'}
OUTPUT: Json = {"type": "function_call_output", "call_id": "c1", "output": "7"}
CHAT_CALL: Json = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}


def says(role: str, text: str) -> Json:
    return {"role": role, "content": text}


def thinks(text: str) -> Json:
    return {"type": "reasoning", "content": [{"type": "reasoning_text", "text": text}]}


def messages(*items: Any, instructions: str | None = None) -> list[Json]:
    return messages_of(instructions, read_items(list(items), lambda _name: None)[0])


def test_leading_instructions_make_one_system_message() -> None:
    """Codex sends both, and many templates take a system message at the beginning only."""
    made = messages(says("developer", "Be kind."), says("system", "Be brief."), says("user", "Hi"), instructions="You.")

    assert made == [says("system", "You.\n\nBe kind.\n\nBe brief."), says("user", "Hi")]


def test_later_instructions_keep_their_place() -> None:
    assert messages(says("user", "Hi"), says("developer", "Stop.")) == [says("user", "Hi"), says("system", "Stop.")]


def test_assistant_turn_makes_one_message() -> None:
    made = messages(
        says("user", "Hi"), thinks("Hm."), says("assistant", "I look."), CALL, {**CALL, "call_id": "c2"}, OUTPUT
    )

    assert made[1:] == [
        {
            "role": "assistant",
            "content": "I look.",
            "reasoning": "Hm.",
            "tool_calls": [CHAT_CALL, {**CHAT_CALL, "id": "c2"}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "7"},
    ]


def test_a_call_alone_has_no_text() -> None:
    assert messages(CALL, OUTPUT)[0] == {"role": "assistant", "content": None, "tool_calls": [CHAT_CALL]}


def test_text_after_a_call_joins_it() -> None:
    assert messages(CALL, says("assistant", "I looked.")) == [
        {"role": "assistant", "content": "I looked.", "tool_calls": [CHAT_CALL]}
    ]


def test_two_texts_make_two_messages() -> None:
    assert messages(says("assistant", "a"), says("assistant", "b")) == [says("assistant", "a"), says("assistant", "b")]


def test_reasoning_begins_another_message() -> None:
    made = messages(CALL, thinks("Hm."), thinks(" So."), CALL)

    assert made == [
        {"role": "assistant", "content": None, "tool_calls": [CHAT_CALL]},
        {"role": "assistant", "content": None, "reasoning": "Hm. So.", "tool_calls": [CHAT_CALL]},
    ]


def test_drops_reasoning_without_text_or_call() -> None:
    assert messages(thinks("Hm."), says("user", "Hi"), says("assistant", "Hello")) == [
        says("user", "Hi"),
        says("assistant", "Hello"),
    ]


def test_uses_the_summary_of_unreadable_reasoning() -> None:
    summary = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "s"}], "encrypted_content": "gA"}

    assert messages(summary, CALL)[0]["reasoning"] == "s"


def test_missing_arguments_become_an_empty_object() -> None:
    """VLLM reads the arguments of earlier calls as JSON."""
    assert messages({**CALL, "arguments": ""})[0]["tool_calls"][0]["function"]["arguments"] == "{}"


def test_custom_call_becomes_a_function_call() -> None:
    custom = {"type": "custom_tool_call", "call_id": "c1", "name": "p", "input": "x\n"}
    made = messages(custom, {"type": "custom_tool_call_output", "call_id": "c1", "output": "ok"})

    assert made[0]["tool_calls"][0]["function"] == {"name": "p", "arguments": '{"input":"x\\n"}'}
    assert made[1] == {"role": "tool", "tool_call_id": "c1", "content": "ok"}


def test_a_call_in_a_namespace_has_both_names() -> None:
    assert messages({**CALL, "namespace": "ns"})[0]["tool_calls"][0]["function"]["name"] == "ns__f"


def test_single_text_becomes_a_string() -> None:
    image = {"type": "input_image", "image_url": "http://x/y.png", "detail": "low"}
    plain = {"type": "input_image", "image_url": "http://x/z.png", "detail": "auto"}
    audio = {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}
    hello = {"type": "input_text", "text": "Hi"}

    assert messages({"role": "user", "content": [hello]})[0]["content"] == "Hi"
    assert messages({"role": "user", "content": []})[0]["content"] == ""
    assert messages({"role": "user", "content": [hello, image, plain, audio]})[0]["content"] == [
        {"type": "text", "text": "Hi"},
        {"type": "image_url", "image_url": {"url": "http://x/y.png", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "http://x/z.png"}},
        audio,
    ]


def test_keeps_images_in_tool_output() -> None:
    image = {"type": "input_image", "image_url": "http://x/y.png"}
    (made,) = messages({**OUTPUT, "output": [{"type": "input_text", "text": "see"}, image]})

    assert made["content"][1]["image_url"] == {"url": "http://x/y.png"}


def test_refusal_becomes_assistant_text() -> None:
    assert messages({"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}) == [
        says("assistant", "No.")
    ]

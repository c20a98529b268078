"""Streams of the real vLLM whose engine is killed go on with a second one, and nobody can tell."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.observation import Api
from tests.e2e.appliance import Appliance
from tests.e2e.killed_streams import Ask, play

pytestmark = [pytest.mark.slow, pytest.mark.engine, pytest.mark.timeout(400)]

BEGINNING = "Every morning the"  # of the text that the model knows
TO_THEIR_END: tuple[Ask, ...] = (
    (Api.CHAT, {}),
    (Api.COMPLETIONS, {"prompt": BEGINNING, "max_tokens": 200}),
    (Api.CHAT, {"temperature": 0.7}),  # the model's text is the same at any up to 1
    (Api.CHAT, {}),
)
TO_A_LIMIT: tuple[Ask, ...] = (
    (Api.CHAT, {"max_tokens": 77}),
    (Api.COMPLETIONS, {"prompt": BEGINNING, "max_tokens": 80}),
    (Api.CHAT, {"max_completion_tokens": 60}),
    (Api.CHAT, {"max_tokens": 84}),
)
TO_A_STOP: tuple[Ask, ...] = (
    (Api.CHAT, {"stop": ["lanterns"]}),
    (Api.COMPLETIONS, {"prompt": BEGINNING, "max_tokens": 200, "stop": [" long ago"]}),
    (Api.CHAT, {"stop": ["fish below", "never said"]}),
    (Api.CHAT, {"stop": ["x"]}),
)


@pytest.fixture(scope="module")
def berth(forked_vllm: Path, tiny_model: Path) -> Iterator[Appliance]:
    model = {"source": str(tiny_model), "engines": ["vllm", "vllm"], "standby": "hot", "context": 1024}
    with Appliance(json.dumps({"m": model}), BERTH_ENGINE_HOME=str(forked_vllm)) as appliance:
        yield appliance


def test_continues_streams_killed_at_many_positions(berth: Appliance, tiny_model: Path) -> None:
    expected, seen = play(berth, TO_THEIR_END, least=1)

    assert expected[0].text == json.loads((tiny_model / "script.json").read_text())["paragraph"]
    assert [(one.text, one.finish, one.error) for one in seen] == [(one.text, one.finish, None) for one in expected]


def test_token_limit_counts_text_before_continuation(berth: Appliance) -> None:
    """Usage too: vLLM puts several tokens into one frame when it is busy. Where all but the usage is there, no other
    engine can tell it, and that is told.
    """
    expected, seen = play(berth, TO_A_LIMIT, least=0)

    for one, other in zip(seen, expected, strict=True):
        told = one.error is not None and other.text.startswith(one.text)
        assert told or one == other, one


def test_text_with_stop_word_is_correct_or_reported_as_cut(berth: Appliance) -> None:
    """An engine holds back what may become the stop string, so that a cut text can end inside a token."""
    expected, seen = play(berth, TO_A_STOP, least=0)

    for one, other in zip(seen, expected, strict=True):
        told = one.error is not None and other.text.startswith(one.text)
        assert told or (one.text, one.finish) == (other.text, other.finish), one

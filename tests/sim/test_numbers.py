"""Every numeric field with every odd number: the engine takes it or rejects it, and goes on."""

from typing import Any

import orjson
import pytest

from tests.sim.harness import CHAT, Client, running

WHOLE = (
    *("max_tokens", "max_completion_tokens", "min_tokens", "n", "seed", "top_k", "top_logprobs", "best_of", "priority"),
    *("truncate_prompt_tokens", "prompt_logprobs", "thinking_token_budget"),
)
FRACTIONS = ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
WRITTEN = (
    *("1e308", "-1e308", "1e30", "1e400", "-1e400", "NaN", "Infinity", "9223372036854775807", "9223372036854775808"),
    *("18446744073709551616", "2147483648", "-2147483649", "-1", "0", "-0.0", "0.5", "1e-320", "1" + "0" * 400),
    *('"1e308"', '"+-1"', '"' + "9" * 5000 + '"', '"٣"', '""', "true", "[]", "{}"),
)
# SGLang and TensorRT-LLM begin to generate so many choices.
CHOICES = frozenset({"9223372036854775807", "9223372036854775808", "2147483648", "1" + "0" * 400})
COMPLETION: dict[str, Any] = {"model": "sim", "prompt": "Hello"}


@pytest.mark.parametrize("dialect", ["vllm", "sglang", "trtllm"])
@pytest.mark.parametrize(("path", "body"), [("/v1/chat/completions", CHAT), ("/v1/completions", COMPLETION)])
def test_odd_numbers_are_taken_or_rejected(dialect: str, path: str, body: dict[str, Any]) -> None:
    wrong = []
    with running(dialect) as server:
        for field in (*WHOLE, *FRACTIONS):
            for number in WRITTEN:
                if field == "n" and number in CHOICES:
                    continue
                with Client(server.port) as client:
                    sent = orjson.dumps(body)[:-1] + f',"max_tokens":9,"{field}":{number}}}'.encode()
                    client.send("POST", path, sent)
                    if (status := client.read(5.0).status) not in (200, 400, 422):
                        wrong.append((field, number[:30], status))
    assert wrong == []

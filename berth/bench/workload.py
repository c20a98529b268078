"""What is asked of the engines: prompts as token ids and lengths of answers, from a seed; pure.

Token ids are those of ordinary words: between the first and the last tenth of the vocabulary, where no model that is
known to us has its special tokens.
"""

import contextlib
import itertools
import json
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from berth.errors import ConfigError, Problem
from berth.ipc.journal import Record

SPREAD = 0.2  # of lengths, evenly around their mean
GROUP = 8  # requests in turn that share a beginning
_LENGTHS = re.compile(r"(\d{1,7})(?:±(\d{1,2})%|\+-(\d{1,2})%)?/(\d{1,6})")
_UNKNOWN_VOCABULARY = 20_000
_MOST_RECORDS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request."""

    prompt: tuple[int, ...]
    tokens: int  # of the answer, exactly


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    name: str
    prompt_tokens: int = 0
    output_tokens: int = 0
    spread: float = SPREAD
    shared: float = 0.0  # of a prompt, by the requests of a group
    lengths: tuple[tuple[int, int], ...] = ()  # of recorded requests, in place of all that
    texts: tuple[Ask, ...] = ()  # of a local file, in the tokens of the model
    gap_s: float = 0.0  # between recorded requests
    burst: float = 1.0  # see `schedule.arrivals`

    @property
    def longest(self) -> int:
        """Prompt and answer together."""
        if self.texts:
            return max(len(one.prompt) + 1 + one.tokens for one in self.texts)
        if self.lengths:
            return max(prompt + output for prompt, output in self.lengths)
        return int((1 + self.spread) * self.prompt_tokens) + int((1 + self.spread) * self.output_tokens) + 2


PRESETS = {
    one.name: one
    for one in (
        Workload(name="chat", prompt_tokens=512, output_tokens=256),
        Workload(name="rag", prompt_tokens=4096, output_tokens=256),
        Workload(name="agent", prompt_tokens=8192, output_tokens=512, shared=0.75),
        Workload(name="batch", prompt_tokens=1024, output_tokens=1024),
    )
}


def parse(text: str) -> Workload:
    """A preset, or lengths: `512/256`, `1024±10%/128`. ConfigError for anything else."""
    if text in PRESETS:
        return PRESETS[text]
    match = _LENGTHS.fullmatch(text)
    if match is None or not int(match[1]) or not int(match[4]):
        raise ConfigError([problem(text, "it is neither a preset nor lengths")])
    spread = int(match[2] or match[3] or 0) / 100
    return Workload(name=text, prompt_tokens=int(match[1]), output_tokens=int(match[4]), spread=spread)


def problem(text: str, reason: str) -> Problem:
    allowed = f"{', '.join(PRESETS)}, recorded, file:PATH, or tokens of prompt and answer"
    return Problem(variable="--workload", value=text, reason=reason, allowed=allowed, example="--workload 1024/256")


def asks(workload: Workload, seed: int, vocab_size: int | None) -> Iterator[Ask]:
    """Without end, and never the same prompt twice. Another seed has none of the prompts of this one. A text of a file
    begins with a token of chance, so that no cache knows it.
    """
    source = random.Random(f"{workload.name} {seed}")  # noqa: S311 - a workload
    words = range(vocab_size // 10, vocab_size - vocab_size // 10) if vocab_size else range(1000, _UNKNOWN_VOCABULARY)
    head: list[int] = []
    for number in itertools.count():
        if workload.texts:
            one = source.choice(workload.texts)
            yield replace(one, prompt=(source.choice(words), *one.prompt))
            continue
        prompt, output = next_lengths(workload, source)
        shared = int(workload.shared * workload.prompt_tokens * (1 - workload.spread))
        if number % GROUP == 0:
            head = source.choices(words, k=shared)
        yield Ask(prompt=(*head, *source.choices(words, k=max(1, prompt - len(head)))), tokens=output)


def next_lengths(workload: Workload, source: random.Random) -> tuple[int, int]:
    if workload.lengths:
        return source.choice(workload.lengths)
    prompt, output = (
        max(1, round(mean * source.uniform(1 - workload.spread, 1 + workload.spread)))
        for mean in (workload.prompt_tokens, workload.output_tokens)
    )
    return prompt, output


def recorded(records: Iterable[Record], model: str, context: int | None) -> Workload:
    """The shape of what clients asked of a model: lengths and arrivals, no text. ConfigError where there is none."""
    found = sorted(
        (one.start, one.prompt_tokens, one.completion_tokens)
        for one in records
        if one.model == model and one.status == 200 and one.prompt_tokens and one.completion_tokens
    )
    fits = [(prompt, output) for _start, prompt, output in found if not context or prompt + output < context]
    if not fits:
        raise ConfigError([problem("recorded", f"the journal has no answered request of {model!r}")])
    gaps = [after[0] - before[0] for before, after in itertools.pairwise(found)]
    mean = sum(gaps) / len(gaps) if gaps else 0.0
    variance = sum((gap - mean) ** 2 for gap in gaps) / len(gaps) if gaps else 0.0
    burst = min(max(variance**0.5 / mean, 0.5), 4.0) if mean > 0 else 1.0
    return Workload(name="recorded", lengths=tuple(fits), gap_s=mean, burst=burst)


def conversations(text: str) -> list[tuple[str, str]]:
    """Prompts and answers of a local file: ShareGPT's JSON, or lines of JSON with OpenAI's messages. What is neither is
    left out.
    """
    try:
        document = json.loads(text)
        rows = document if isinstance(document, list) else [document]
    except ValueError:
        rows = list(lines_of_json(text))
    found = (conversation_of(row) for row in rows[:_MOST_RECORDS] if isinstance(row, dict))
    return [one for one in found if one is not None]


def of_file(path: str, tokenized: Iterable[tuple[Sequence[int], int]], context: int | None) -> Workload:
    """`tokenized`: of each conversation the prompt and the length of the answer."""
    texts = tuple(
        Ask(prompt=tuple(prompt), tokens=tokens)
        for prompt, tokens in tokenized
        if prompt and tokens and (not context or len(prompt) + 1 + tokens < context)
    )
    if not texts:
        raise ConfigError([problem(f"file:{path}", "no conversation in it has a prompt and an answer that fit")])
    return Workload(name=f"file:{path}", texts=texts)


def fitting(workload: Workload, context: int | None) -> Workload:
    """ConfigError for one that does not fit into the model's context."""
    if context and workload.longest > context:
        reason = f"its longest request has {workload.longest} tokens, and the model's context {context}"
        raise ConfigError([problem(workload.name, reason)])
    return workload


def lines_of_json(text: str) -> Iterator[Any]:
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            yield json.loads(line)


def conversation_of(row: dict[str, Any]) -> tuple[str, str] | None:
    """The text up to the last answer, and that answer."""
    turns = row.get("conversations") or row.get("messages")
    if not isinstance(turns, list):
        return None
    said = [
        (turn.get("from") or turn.get("role"), turn.get("value") or turn.get("content"))
        for turn in turns
        if isinstance(turn, dict)
    ]
    answers = [at for at, (who, what) in enumerate(said) if who in ("gpt", "assistant") and isinstance(what, str)]
    if not answers or not answers[-1]:
        return None
    before = [what for _who, what in said[: answers[-1]] if isinstance(what, str)]
    return "\n".join(before), str(said[answers[-1]][1])

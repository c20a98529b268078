"""Which replicas have the beginnings of prompts in their caches, and what that is worth."""

import random
from collections import OrderedDict
from typing import Any

import pytest

from berth.canonical import InferenceRequest, Operation
from berth.router.balancing import affinity, prefixes, selection
from berth.router.balancing.prefixes import FIRST, LAST, MOST, Prefixes, beginnings

A, B = ("a", 1.0), ("b", 1.0)


def chat(*texts: Any) -> InferenceRequest:
    roles = ("system", *("user", "assistant") * 20)
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    return InferenceRequest(operation=Operation.CHAT, model="m", body={"messages": messages})


def completion(prompt: Any) -> InferenceRequest:
    return InferenceRequest(operation=Operation.COMPLETION, model="m", body={"prompt": prompt})


@pytest.mark.parametrize(
    ("length", "count"), [(0, 0), (FIRST - 1, 0), (FIRST, 1), (2 * FIRST - 1, 1), (2 * FIRST, 2), (LAST, 7), (10**6, 7)]
)
def test_a_beginning_is_known_at_each_power_of_two(length: int, count: int) -> None:
    assert len(beginnings(completion("x" * length))) == count


def test_prompts_that_begin_alike_have_their_first_hashes_in_common() -> None:
    document = "d" * 5000
    first, second = beginnings(chat(document, "a" * 9000)), beginnings(chat(document, "b" * 9000))
    assert first[:3] == second[:3]
    assert not set(first[3:]) & set(second[3:])
    assert beginnings(chat([{"type": "text", "text": document}, {"type": "image_url"}], "a" * 9000)) == first


def test_messages_are_no_longer_read_than_needed_and_none_runs_into_the_next() -> None:
    assert beginnings(chat("ab" * 300, "c" * 600)) != beginnings(chat("ab" * 299, "ab" + "c" * 600))
    assert beginnings(chat(None, "x" * 10**6, "y" * 10**6)) == beginnings(chat("", "x" * 10**6))


@pytest.mark.parametrize("request_", [completion([1, 2, 3]), chat(), chat("short")])
def test_other_prompts_have_none(request_: InferenceRequest) -> None:
    assert beginnings(request_) == ()
    assert beginnings(InferenceRequest(operation=Operation.EMBEDDING, model="m", body={"input": "x" * 5000})) == ()


def test_text_outside_of_unicode_is_hashed_too() -> None:
    assert len(beginnings(completion("\ud800" * 400))) == 1


def test_longest_known_beginning_says_who_has_it_and_the_conversation_comes_first() -> None:
    table = Prefixes()
    assert table.holders(b"s", [b"1", b"2"]) == ()
    table.sent(b"s", [b"1"], A)
    table.sent(b"t", [b"1", b"2"], B)
    assert table.holders(b"", [b"1"]) == (A, B)
    assert table.holders(b"new", [b"1", b"2", b"3"]) == (B,)
    assert table.holders(b"s", [b"1", b"2"]) == (A,)
    table.sent(b"s", [b"1"], B)
    assert (table.holders(b"s", []), table.holders(b"", [b"1"])) == ((B,), (A, B))


def test_table_is_bounded_and_forgets_what_was_used_longest_ago() -> None:
    table = Prefixes()
    for number in range(MOST + 500):
        table.sent(b"", [b"kept", number.to_bytes(4, "big")], A)
    assert len(table) == MOST
    assert table.holders(b"", [b"kept"]) == (A,)
    assert table.holders(b"", [(0).to_bytes(4, "big")]) == ()


class Cache:
    """A prefix cache of blocks, as engines have it: what was used longest ago makes room."""

    def __init__(self, blocks: int) -> None:
        self._most = blocks
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def hit(self, texts: list[str]) -> int:
        """The characters that were there; afterwards all are."""
        found, chain, known = 0, 0, True
        for text in texts:
            chain = hash((chain, text))
            known = known and chain in self._blocks
            found += len(text) if known else 0
            self._blocks.pop(chain, None)
            self._blocks[chain] = None
        while len(self._blocks) > self._most:
            self._blocks.popitem(last=False)
        return found


def hit_rate(way: str, *, documents: int, seed: int = 3, requests: int = 1500) -> float:
    """Of two replicas whose caches together hold all documents: each conversation begins with one of them, in pieces of
    a block, and has four turns.
    """
    dice, names = random.Random(seed), ["a", "b"]
    caches, hits, total = [Cache(documents * 8 // 2 + 200) for _ in names], 0, 0
    texts = [[f"{number}-{piece}".ljust(1000, ".") for piece in range(8)] for number in range(documents)]
    table, running = Prefixes(), list[tuple[int, int]]()
    conversations: list[list[str]] = []
    for now in range(requests):
        conversations = [one for one in conversations[-60:] if len(one) < 16]
        if not conversations or dice.random() < 0.4:
            conversations.append([*dice.choice(texts)])
        own = dice.choice(conversations)
        own.append(f"{dice.random()}".ljust(500, "?"))
        running = [one for one in running if one[0] > now]
        loads = [float(sum(replica == number for _, replica in running)) for number in range(2)]
        request = chat("".join(own[:8]), *own[8:])
        order = selection.by_load(loads, [1.0, 1.0])
        if way == "random":
            order = [dice.randrange(2)]
        elif way != "least loaded":
            session, begins = affinity.session({}, request), beginnings(request)
            ranked, holders = affinity.ranked(session, names, [1.0, 1.0]), table.holders(session, begins)
            if way == "prefixes" and holders:
                holding = [number for number in order if (names[number], 1.0) in holders]
                ranked = [*holding, *(number for number in ranked if number not in holding)]
            order = selection.preferring(ranked, order, loads, [1.0, 1.0], [0, 0])
            table.sent(session, begins, (names[order[0]], 1.0))
        hits += caches[order[0]].hit(own)
        total += sum(map(len, own))
        running.append((now + dice.randint(4, 40), order[0]))
        own.append("answer".ljust(300, "!"))
    return hits / total


def test_documents_that_many_conversations_begin_with_are_kept_by_one_replica() -> None:
    found = {way: hit_rate(way, documents=60) for way in ("random", "least loaded", "conversations", "prefixes")}
    assert found["prefixes"] > found["conversations"] + 0.05, found
    assert found["conversations"] >= found["least loaded"] - 0.02, found


def test_conversations_stay_as_they_would_without() -> None:
    few = {way: hit_rate(way, documents=2) for way in ("conversations", "prefixes")}
    assert few["prefixes"] > few["conversations"] - 0.02, few


def test_constants_are_powers_of_two() -> None:
    assert prefixes.FIRST.bit_count() == prefixes.LAST.bit_count() == 1

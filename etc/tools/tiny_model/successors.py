"""The scripted model's script: for each token the one that follows it."""

from collections.abc import Iterable
from itertools import pairwise

from tokenizers import Tokenizer

from etc.tools.tiny_model.texts import CALL_PIECES, CALL_START, PARAGRAPH, REASONING, TURN_END
from etc.tools.tiny_model.tokenizer import encode, token_id


def successors(tokenizer: Tokenizer) -> list[int]:
    """Index: a token id; value: the id that follows. Four cases:

    1. A new line (the end of a prompt) is followed by the paragraph, and that by the end of the turn.
    2. <think> is followed by the reasoning, </think> and the paragraph.
    3. The call token is followed by a tool call and the end of the turn.
    4. All other tokens form one ring, so that an answer to odd tokens never ends by itself.
    """
    table: dict[int, int] = {}
    for sequence in _sequences(tokenizer):
        for token, follower in pairwise(sequence):
            if table.setdefault(token, follower) != follower:
                raise ValueError(f"token {tokenizer.id_to_token(token)!r} has two followers: change the text")
    others = [token for token in range(tokenizer.get_vocab_size()) if token not in table]
    table.update(pairwise([*others, others[0]]))
    return [table[token] for token in range(tokenizer.get_vocab_size())]


def _sequences(tokenizer: Tokenizer) -> Iterable[list[int]]:
    end = token_id(tokenizer, TURN_END)
    new_line = encode(tokenizer, "\n")
    paragraph = encode(tokenizer, PARAGRAPH)
    think, think_end = token_id(tokenizer, "<think>"), token_id(tokenizer, "</think>")
    call = [CALL_START, "<tool_call>", *CALL_PIECES, "</tool_call>"]
    yield [*new_line, *paragraph, end, *new_line]
    yield [think, *encode(tokenizer, REASONING), think_end, paragraph[0]]
    yield [*(token_id(tokenizer, token) for token in call), end]

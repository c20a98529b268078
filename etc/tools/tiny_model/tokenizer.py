"""The tiny model's tokenizer: byte-level BPE, trained on the tiny model's own texts."""

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from etc.tools.tiny_model.texts import CALL_PIECES, PARAGRAPH, PROMPTS, REASONING, SPECIAL, VISIBLE

VOCABULARY = 1000  # at most; the texts yield fewer


def build_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(_corpus(), trainer=_trainer())
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in (*VISIBLE, *CALL_PIECES)])
    return tokenizer


def _trainer() -> trainers.BpeTrainer:
    return trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(text, special=True) for text in SPECIAL],
        show_progress=False,
        min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )


def _corpus() -> list[str]:
    """Each word often enough to become one token; "café" and the fox never, so that they stay split into bytes."""
    paragraph = PARAGRAPH.replace("🦊", "").replace("café", "")
    words = [" " + word for word in (paragraph + " " + REASONING).split()]
    return [paragraph, REASONING, *words] * 8 + list(PROMPTS) * 4


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """KeyError for what is not one token."""
    found = tokenizer.token_to_id(token)
    if found is None:
        raise KeyError(token)
    return int(found)

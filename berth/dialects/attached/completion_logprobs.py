"""Log probabilities of completions: llama.cpp sends them as those of chats, which clients cannot read there."""

from berth.canonical import Json


def as_lists(choice: Json, offset: int = 0) -> bool:
    """Puts those of a completion's choice into OpenAI's parallel lists. `offset`: of its text, in characters. False:
    there was nothing to change.
    """
    given = choice.get("logprobs")
    if not isinstance(given, dict) or not isinstance(given.get("content"), list):
        return False
    tokens = given["content"]
    lists: Json = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for token in tokens:
        lists["tokens"].append(token["token"])
        lists["token_logprobs"].append(token["logprob"])
        lists["top_logprobs"].append({one["token"]: one["logprob"] for one in token.get("top_logprobs") or ()})
        lists["text_offset"].append(offset)
        offset += len(token["token"])
    choice["logprobs"] = lists
    return True

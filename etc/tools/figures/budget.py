"""Upper limits for the figures, which do not depend on the machine.

After an improvement, lower `most` to what is measured then; the target is `aim`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from etc.tools.figures.census import Census
from etc.tools.figures.cost import Calls
from etc.tools.figures.imports import Folder
from etc.tools.figures.system_calls import REQUEST, TOKEN, TRANSLATED_TOKEN
from etc.tools.figures.walk import Length


@dataclass(frozen=True, kw_only=True)
class Budget:
    most: float
    aim: float


BUDGETS: Mapping[str, Budget] = {
    "functions of a plain chat": Budget(most=93, aim=90),
    "files of a plain chat": Budget(most=30, aim=22),
    "functions of a streamed chat": Budget(most=134, aim=130),
    "functions of an Anthropic message": Budget(most=112, aim=110),
    "calls for a token": Budget(most=10, aim=10),
    "calls for an Anthropic token": Budget(most=13, aim=13),
    "calls for a Responses token": Budget(most=13, aim=13),
    "calls for an Ollama chat token": Budget(most=13, aim=13),
    "calls for an Ollama generate token": Budget(most=13, aim=13),
    "calls for a TGI token": Budget(most=14, aim=13),
    "calls of a plain chat": Budget(most=112, aim=105),
    "calls of an Anthropic message": Budget(most=143, aim=135),
    "calls of an idle worker in a period": Budget(most=16, aim=16),
    # of functions, C's too: by a key with every limit, a sampled trace, and the journal
    "calls that all features add to a chat": Budget(most=47, aim=40),
    "calls that all features add to a streamed chat": Budget(most=47, aim=40),
    "added to a token by all features": Budget(most=0, aim=0),
    "calls that a canary adds to a chat": Budget(most=18, aim=15),
    "calls that a canary adds to a streamed chat": Budget(most=18, aim=15),
    "calls that 20 rules add to a chat": Budget(most=22, aim=20),
    "added to a chat by a model on request": Budget(most=0, aim=0),
    REQUEST: Budget(most=20, aim=15),
    TOKEN: Budget(most=6, aim=4),
    TRANSLATED_TOKEN: Budget(most=6, aim=4),
    "one-use private helpers, % of all functions": Budget(most=9.9, aim=9.9),
    "functions of more than 40 lines": Budget(most=0, aim=0),
    "import cycles": Budget(most=0, aim=0),
}


def measured(
    census: Census,
    folders: Sequence[Folder],
    walks: Mapping[str, Length],
    features: Calls,
    system_calls: Mapping[str, float],
) -> dict[str, float]:
    """The figures that have a budget. `census` is that of the whole; `system_calls` are empty where they cannot be
    counted.
    """
    return {
        "functions of a plain chat": walks["chat"].functions,
        "files of a plain chat": walks["chat"].files,
        "functions of a streamed chat": walks["chat-stream"].functions,
        "functions of an Anthropic message": walks["anthropic"].functions,
        "calls for a token": walks["chat-token"].calls,
        "calls for an Anthropic token": walks["anthropic-token"].calls,
        "calls for a Responses token": walks["responses-token"].calls,
        "calls for an Ollama chat token": walks["ollama-chat-token"].calls,
        "calls for an Ollama generate token": walks["ollama-generate-token"].calls,
        "calls for a TGI token": walks["tgi-token"].calls,
        "calls of a plain chat": walks["chat"].calls,
        "calls of an Anthropic message": walks["anthropic"].calls,
        "calls of an idle worker in a period": walks["idle-period"].calls,
        "calls that all features add to a chat": features.request["all"] - features.request["off"],
        "calls that all features add to a streamed chat": features.stream["all"] - features.stream["off"],
        "added to a token by all features": round(features.token["all"] - features.token["off"], 1),
        "calls that a canary adds to a chat": features.request["canary"] - features.request["pair"],
        "calls that a canary adds to a streamed chat": features.stream["canary"] - features.stream["pair"],
        "calls that 20 rules add to a chat": features.request["rules"] - features.request["ready"],
        "added to a chat by a model on request": features.request["on request"] - features.request["ready"],
        **system_calls,
        "one-use private helpers, % of all functions": round(100 * census.one_use_share, 1),
        "functions of more than 40 lines": census.too_long,
        "import cycles": sum(len(folder.cycles) for folder in folders),
    }


def excesses(figures: Mapping[str, float], budgets: Mapping[str, Budget] = BUDGETS) -> list[str]:
    """One message for each figure over its budget."""
    return [
        f"{name}: {figures[name]:g}, at most {budget.most:g} are allowed"
        for name, budget in budgets.items()
        if name in figures and figures[name] > budget.most
    ]

"""What the clients under test are told of the appliance that they ask: handed over as JSON, since each family of
clients lives in an environment of its own, without Berth.
"""

import json
from dataclasses import asdict, dataclass
from typing import Final

VARIABLE: Final = "CLIENTS_SCENE"
SIMULATED: Final = ("vllm", "sglang", "trtllm")  # models, each named after the engine that its own one speaks like
TINY: Final = "tiny"  # the tiny model on the real vLLM
MODELS: Final = (*SIMULATED, TINY)
EMBED: Final = "embed"
KEY: Final = "key-of-the-tests"
CLAUDE: Final = {  # a further name of each model: some clients of Anthropic's API know their models by heart
    "vllm": "claude-sonnet-4-5",
    "sglang": "claude-haiku-4-5",
    "trtllm": "claude-opus-4-5",
    TINY: "claude-opus-4-1",
    "cut-vllm": "claude-3-5-haiku-latest",
    "cut-sglang": "claude-3-7-sonnet-latest",
    "cut-trtllm": "claude-sonnet-4-0",
    "no-such-model": "claude-3-haiku-20240307",
}


def cut(dialect: str) -> str:
    """The model whose engine closes the connection after three tokens, every time."""
    return f"cut-{dialect}"


def thinks(dialect: str) -> str:
    """The model that reasons before each answer."""
    return f"thinks-{dialect}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """`texts`: what each model says, by its name. Models that this machine cannot run are left out."""

    url: str
    texts: dict[str, str]
    thoughts: str  # of the models that reason

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "Scene":
        return Scene(**json.loads(text))

"""What the tests in the browser know of the appliance that `make page-test` has started for them."""

import json
import os
from dataclasses import asdict, dataclass
from typing import Self

VARIABLE = "PAGE_TEST_SCENE"
USER_KEY, ADMIN_KEY = "sk-user-0123456789abcdef", "sk-admin-0123456789abcdef"
CHROMIUM = "/usr/bin/chromium"
VIEWS = ("overview", "playground", "connect", "requests", "logs", "system")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    url: str
    lan_url: str  # the same Berth at an address of the network, where browsers see no secure context; "": there is none
    state_file: str  # which has the engines' pids

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_environment(cls) -> Self | None:
        return cls(**json.loads(os.environ[VARIABLE])) if VARIABLE in os.environ else None

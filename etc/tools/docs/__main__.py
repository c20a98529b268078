"""Writes the generated parts of the documentation: `make docs`.

The tables in docs/configuration.md, docs/fields.md and docs/apis.md come from the code that they describe, those in
docs/models-and-cards.md from the planner, and etc/env.example from the table of variables. The rest of those pages is
written by hand.
"""

import sys
from functools import reduce
from pathlib import Path

from berth.apis import stream_events
from berth.boot.config.reference import env_text, markdown_table
from berth.dialects.requests.fields import control_table, table
from etc.tools.docs import cards

ROOT = Path(__file__).parents[3]


def generated(root: Path) -> dict[Path, str]:
    """Each file with a generated part, and the text that it must have."""
    pages = ("configuration", "fields", "apis", "models-and-cards")
    configuration, fields, apis, models = (root / f"docs/{name}.md" for name in pages)
    of_models = {"cards": cards.card_table(), "models": cards.model_table(), "fit": cards.fit_table()}
    return {
        configuration: insert(configuration.read_text(), "variables", markdown_table()),
        fields: insert(insert(fields.read_text(), "fields", table()), "control", control_table()),
        apis: insert(apis.read_text(), "streams", stream_events.table()),
        models: reduce(lambda text, one: insert(text, *one), of_models.items(), models.read_text()),
        root / "etc/env.example": env_text(active=("BERTH_MODELS",)),
    }


def insert(text: str, name: str, table: str) -> str:
    """The page with the table between the two markers of that name. ValueError unless each is there exactly once."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"the text must have one {begin} and after it one {end}")
    head, rest = text.split(begin)
    _, tail = rest.split(end)
    return f"{head}{begin}\n{table}{end}{tail}"


def main() -> int:
    for path, text in generated(ROOT).items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

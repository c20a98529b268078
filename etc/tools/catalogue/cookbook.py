"""SGLang's parsers from its cookbook (github.com/sgl-project/sgl-cookbook), data/models/generated. No network."""

from pathlib import Path

import yaml

from berth.boot.catalogue.schema import ParserNames

SOURCE = "cookbook"


def parsers(folder: Path) -> dict[str, tuple[ParserNames, str]]:
    """By hub id: the names, and the file that has them. Files of newer versions of SGLang win."""
    found = {}
    for path in sorted(folder.rglob("generated/v*/*.yaml"), key=lambda path: (version(path.parent.name), path.name)):
        try:
            families = yaml.safe_load(path.read_text(encoding="utf-8")).get("families") or ()
            for model in (model for family in families for model in family["models"]):
                llm = model["attributes"].get("llm") or {}
                names = {"tool": llm.get("tool_parser"), "reasoning": llm.get("reasoning_parser")}
                known = {kind: name for kind, name in names.items() if name}
                if known:
                    found[model["model_path"]] = (ParserNames(**known), f"{SOURCE}:{path.relative_to(folder)}")
        except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is no file of the cookbook: {error!r}") from error
    return found


def version(text: str) -> tuple[int, ...]:
    """Of "v0.5.10"."""
    return tuple(int(part) for part in text.removeprefix("v").split("."))

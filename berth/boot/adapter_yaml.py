"""The `adapters` of a model in BERTH_MODELS: a mapping from public names to LoRA adapters."""

from berth.boot import model_rules as rules
from berth.boot.model_rules import Problems, Rule
from berth.boot.model_spec import AdapterSpec
from berth.boot.tree_fields import scalar, shown
from berth.boot.yaml_tree import Tree

EXAMPLE = "adapters: {support: owner/support-lora}"
MOST = 128  # of one model: a list to make by hand


def _adapter_source(text: str) -> str:
    return rules.local_source(text) if rules.is_local(text) else rules.hub_repository(text)


SOURCE = Rule(
    parse=_adapter_source, allowed="a hub id, or a local path that starts with / ./ ../ or ~", example=EXAMPLE
)


def parse_adapters(problems: Problems, place: str, tree: Tree) -> tuple[AdapterSpec, ...]:
    """Those that are right; what is wrong goes to `problems`."""
    if not isinstance(tree, dict) or not 0 < len(tree) <= MOST:
        reason = "no mapping from names to adapters" if not isinstance(tree, dict) else f"{len(tree)} adapters"
        allowed = f"1 to {MOST} adapters, each with the name that clients ask for"
        problems.add(place, shown(tree), reason, allowed=allowed, example=EXAMPLE)
        return ()
    found = []
    for name, value in tree.items():
        public = problems.parse(f"{place}.{name}", name, rules.NAME)
        source = scalar(problems, f"{place}.{name}", value, SOURCE)
        if public is not None and source is not None:
            found.append(AdapterSpec(name=public, source=source))
    return tuple(found)

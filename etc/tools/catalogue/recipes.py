"""Facts from the recipes of vLLM (github.com/vllm-project/recipes): a folder with one YAML file per model. No network.

Recipes name other sizes and other fine-tunings as variants too. They are other models here: a variant has the same name
but for words about its precision. Variants for other makers' accelerators are left out.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from berth.boot.catalogue.schema import Draft, Model, ParserNames, Precision, Variant

SOURCE = "recipes"
GB = 10**9
PRECISIONS = {"fp4": Precision.NVFP4, "int2/4/8": Precision.MIXED}
# Words of a name that say nothing about which model it is.
OF_PRECISION = frozenset(
    {"awq", "gptq", "bnb", "fp8", "fp4", "nvfp4", "mxfp4", "mxfp8", "int4", "int8", "bf16", "w4a16", "w8a8", "w4a8"}
    | {"4bit", "8bit", "quantized", "dynamic", "block", "qat", "ct", "it", "meta", "hf"}
)
OTHER_MAKERS = re.compile(r"\b(amd|ascend|mi\d{3}x?|xpu|gaudi)\b", re.IGNORECASE)
STATED = re.compile(r"#.*?\b(\d{1,3}(?:,\d{3}){3,}) B\b")
METHODS = {"qwen3_next_mtp": "mtp", "ernie_mtp": "mtp", "deepseek_mtp": "mtp"}


def models(folder: Path) -> tuple[Model, ...]:
    """Of all recipes below `folder`, by id. ValueError with the path of a file that is no recipe."""
    found = {}
    for path in sorted(folder.rglob("models/*/*.yaml")):
        try:
            text = path.read_text(encoding="utf-8")
            model = model_from(yaml.safe_load(text), f"{SOURCE}:{path.relative_to(folder)}", stated_bytes(text))
        except (yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{path} is no recipe: {error!r}") from error
        found[model.id] = model
    return tuple(found[name] for name in sorted(found, key=str.casefold))


def stated_bytes(text: str) -> dict[str, int]:
    """The size of the files by variant, where a comment of the recipe has it: `# 30,866,866,928 B = 30.9 GB`."""
    section = text.partition("\nvariants:\n")[2]
    found: dict[str, int] = {}
    variant = ""
    for line in section.splitlines():
        if line[:1].strip():  # the next section
            break
        if key := re.match(r"  ([\w.-]+):", line):
            variant = key[1]
        if variant and (size := STATED.search(line)):
            found.setdefault(variant, int(size[1].replace(",", "")))
    return found


def model_from(recipe: Mapping[str, Any], source: str, sizes: Mapping[str, int]) -> Model:
    facts = recipe["model"]
    features = recipe.get("features") or {}
    words = {name: arguments(feature) for name, feature in features.items()}
    tool = value("--tool-call-parser", words.get("tool_calling", ()))
    reasoning = value("--reasoning-parser", words.get("reasoning", ()))
    names = {name: parser for name, parser in (("tool", tool), ("reasoning", reasoning)) if parser}
    return Model(
        id=facts["model_id"],
        context=facts.get("context_length") or None,
        parsers={"vllm": ParserNames(**names)} if names else {},
        variants=tuple(variants(facts["model_id"], recipe.get("variants") or {}, sizes)),
        draft=draft(features.get("spec_decoding") or {}),
        text_only=True if "text_only" in features else None,
        source=source,
    )


def variants(model: str, entries: Mapping[str, Mapping[str, Any]], sizes: Mapping[str, int]) -> Iterator[Variant]:
    """Each once, in the order of the recipe."""
    seen = set()
    for key, entry in entries.items():
        id_ = entry.get("model_id") or (model if key == "default" else "")
        makers = f"{key} {id_.partition('/')[0]} {entry.get('description', '')}" if key != "default" else ""
        if not id_ or id_ in seen or stem(id_) != stem(model) or OTHER_MAKERS.search(makers.replace("_", " ")):
            continue
        seen.add(id_)
        precision = PRECISIONS.get(entry["precision"]) or Precision(entry["precision"])
        least = entry.get("vram_minimum_gb")
        memory_bytes = int(least * GB) if least else None
        yield Variant(id=id_, precision=precision, weights_bytes=sizes.get(key), memory_bytes=memory_bytes)


def stem(hub_id: str) -> tuple[str, ...]:
    """The words of a model's name without those about its precision: equal for a model and its variants."""
    words = re.split(r"[-_/]|\.(?=[a-z])", hub_id.partition("/")[2].casefold())
    return tuple(word for word in words if word not in OF_PRECISION)


def draft(feature: Mapping[str, Any]) -> Draft | None:
    """The speculation of a recipe, by the first of its modes where there are several."""
    modes = feature.get("modes") or {}
    chosen = modes.get(feature.get("default_mode", "")) or next(iter(modes.values()), feature)
    config = speculative(arguments(chosen))
    method, tokens, model = (config.get(name) for name in ("method", "num_speculative_tokens", "model"))
    if not (method or model):
        return None
    return Draft(method=METHODS.get(method or "", method), tokens=int(tokens) if tokens else None, id=model)


def speculative(words: Sequence[str]) -> dict[str, Any]:
    """Of `--speculative-config JSON`, or of its fields: `--speculative-config.method mtp`."""
    whole = value("--speculative-config", words)
    found: dict[str, Any] = json.loads(whole) if whole else {}
    prefix = "--speculative-config."
    return found | {word.removeprefix(prefix): after for word, after in pairwise(words) if word.startswith(prefix)}


def arguments(feature: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(word) for word in feature.get("args") or ())


def value(flag: str, words: Sequence[str]) -> str | None:
    """Of `--flag value` or `--flag=value`."""
    for position, word in enumerate(words):
        if word == flag and position + 1 < len(words):
            return words[position + 1]
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
    return None

"""Facts about a model from the small files of its checkpoint (config.json, safetensors index, templates). Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from berth.boot.catalogue.entry import Entry
from berth.boot.checkpoints.cache_layers import CacheLayer, cache_layers, checkpoint_kv_dtype, draft_layers
from berth.boot.checkpoints.towers import is_multimodal, tower_elements
from berth.engines.base import ModelFacts
from berth.plan import Adapter, Task

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
TOKENIZER = "tokenizer_config.json"
TEMPLATE = "chat_template.jinja"
TEMPLATE_JSON = "chat_template.json"
SENTENCES = "sentence_bert_config.json"
PIPELINE = "modules.json"  # sentence-transformers: an embedding model
DOCUMENTS = (CONFIG, INDEX, TOKENIZER, TEMPLATE, TEMPLATE_JSON, SENTENCES)

# Multimodal models keep the language model's fields in a section of their config.
TEXT_PARTS = ("text_config", "llm_config", "language_config", "thinker_config")
BERTS = {"bert", "distilbert", "electra", "eurobert", "jina_bert", "modernbert", "mpnet", "nomic_bert", "new", "gte"}
ENCODERS = frozenset(BERTS | {"camembert", "deberta", "deberta-v2", "roberta", "xlm-roberta", "xmod"})
ROBERTAS = frozenset({"roberta", "xlm-roberta", "camembert"})  # their positions start after the padding's
CHAT_MODELS_NAMED_MODEL = ("LMHeadModel", "ChatModel", "ChatGLMModel")
RERANKING_NAMES = re.compile(r"(?i)(rerank|cross-encoder)")
EMBEDDING_NAMES = re.compile(r"(?i)(embed|(^|[/_-])(bge|e5|gte|minilm)[/_-])")
CLASSIFYING_SUFFIX = "ForSequenceClassification"
EMBEDDING_SUFFIXES = ("Model", "ForMaskedLM", "ForTokenClassification", "Encoder")
USUAL_LABELS = 2  # of a classifier that names none


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """Facts about a model that are known before its weights are downloaded. None: unknown."""

    source: str
    model_type: str | None = None
    architectures: tuple[str, ...] = ()
    dtype: str | None = None  # "bfloat16"
    hidden_size: int | None = None
    layers: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    head_dim: int | None = None
    cache_layers: tuple[CacheLayer, ...] = ()  # empty: unknown
    draft_layers: tuple[CacheLayer, ...] = ()  # of the model's own speculation (MTP)
    kv_dtype: str | None = None  # of the KV cache, where the checkpoint asks for one
    experts: int | None = None  # of a mixture
    multimodal: bool = False  # it reads more than text
    tower_elements: int = 0  # parameters of the vision tower, at least
    max_position: int | None = None  # tokens
    long_rope: bool = False  # without a stated context engines serve its original one, which is shorter
    vocab_size: int | None = None
    encoder_only: bool = False  # keeps no KV cache
    weights_bytes: int | None = None
    local: bool = False  # the weights are on this machine
    quantization: str | None = None
    chat_template: str | None = field(default=None, repr=False)
    call: str = field(default="", repr=False)  # how the template writes a tool call; "" where that is unknown
    response_template: bool = False  # the tokenizer's configuration describes the model's own output format
    base_models: tuple[str, ...] = ()  # hub ids: what the checkpoint says that it was made from
    catalogue: Entry | None = field(default=None, repr=False)
    own_config: bool = False  # the checkpoint has Python code of its own for its configuration
    own_tokenizer: str | None = None  # the same for its tokenizer: the class
    commit: str | None = None  # on the hub
    guessed_weights: bool = False  # their size is only estimated from the name
    task: Task = Task.GENERATE
    adapters: tuple[Adapter, ...] = ()  # served with it
    warnings: tuple[str, ...] = ()  # unchecked or estimated facts

    @property
    def facts(self) -> ModelFacts:
        """What decides about the engine's parsers."""
        return ModelFacts(
            model_type=self.model_type or "",
            source=self.source,
            template=self.chat_template or "",
            call=self.call,
            response_template=self.response_template,
            known=self.catalogue.known_parsers() if self.catalogue else (),
        )


def model_info(
    source: str, documents: Mapping[str, Any], sizes: Mapping[str, int | None], *, local: bool = False
) -> ModelInfo:
    """`documents`: the parsed small files by name (templates as text). `sizes`: every file of the checkpoint, bytes."""
    config = _mapping(documents.get(CONFIG))
    tokenizer = _mapping(documents.get(TOKENIZER))
    both = {**config, **language_part(config)}
    task = task_from_config(both, sizes)
    heads = _number(both, "num_attention_heads", "n_head", "n_heads")
    kv_heads, head_dim = kv_heads_of(both, heads), head_dim_of(both, heads)
    dtype = _text(both, "dtype") or _text(both, "torch_dtype")
    return ModelInfo(
        source=source,
        model_type=_text(config, "model_type"),
        architectures=_names(config.get("architectures")),
        dtype=dtype.removeprefix("torch.") if dtype and dtype != "auto" else None,
        hidden_size=_number(both, "hidden_size", "n_embd", "d_model"),
        layers=_number(both, "num_hidden_layers", "n_layer", "n_layers", "num_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        cache_layers=cache_layers(both, kv_heads=kv_heads, head_dim=head_dim),
        draft_layers=draft_layers(both, kv_heads=kv_heads, head_dim=head_dim),
        kv_dtype=checkpoint_kv_dtype(both),
        experts=_number(both, "num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"),
        multimodal=is_multimodal(config),
        tower_elements=tower_elements(config),
        max_position=max_position_of(both, documents, task),
        long_rope=has_long_rope(both),
        vocab_size=_number(both, "vocab_size", "padded_vocab_size"),
        encoder_only=_text(both, "model_type") in ENCODERS,
        weights_bytes=weights_bytes_of(_mapping(documents.get(INDEX)), sizes),
        local=local,
        quantization=_quantization(both),
        chat_template=chat_template_of(documents),
        response_template=bool(tokenizer.get("response_template")),
        own_config="AutoConfig" in _mapping(config.get("auto_map")),
        own_tokenizer=own_tokenizer_of(tokenizer),
        task=task,
    )


def task_from_name(source: str) -> Task:
    """For a model about which nothing else is known."""
    if RERANKING_NAMES.search(source):
        return Task.RERANK
    return Task.EMBED if EMBEDDING_NAMES.search(source) else Task.GENERATE


def weight_files(names: Mapping[str, int | None]) -> tuple[str, ...]:
    """The files that an engine loads: safetensors, else PyTorch's. Copies in other formats do not count."""
    top = sorted(name for name in names if "/" not in name)
    tensors = [name for name in top if name.endswith(".safetensors") and not name.startswith("adapter_")]
    hub_format = [name for name in tensors if not name.startswith("consolidated")]
    pickles = [name for name in top if re.fullmatch(r"pytorch_model.*\.bin", name)]
    return tuple(hub_format or tensors or pickles)


def without_weights(names: Mapping[str, int | None]) -> str:
    """Why no engine can load a checkpoint with these files; empty if one can."""
    if weight_files(names):
        return ""
    if any(name.endswith(".gguf") for name in names):
        return "holds GGUF files only, which this version does not serve"
    return "holds no weights (*.safetensors)"


def shards(index: Any) -> set[str]:
    """The weight files that model.safetensors.index.json names."""
    return {name for name in _mapping(_mapping(index).get("weight_map")).values() if isinstance(name, str)}


def weights_bytes_of(index: Mapping[str, Any], sizes: Mapping[str, int | None]) -> int | None:
    """The size of the weight files; where one is unknown, the total in the safetensors index."""
    named = shards(index)
    files = sorted(named) if named else weight_files(sizes)
    known = [size for name in files if (size := sizes.get(name)) is not None]
    if files and len(known) == len(files):
        return sum(known)
    return _number(_mapping(index.get("metadata")), "total_size")


def language_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's section in the config of a multimodal model; empty if there is none."""
    for name in TEXT_PARTS:
        if part := _mapping(config.get(name)):
            return language_part(part) or part if name == "thinker_config" else part
    return {}


def kv_heads_of(config: Mapping[str, Any], heads: int | None) -> int | None:
    """Heads for keys and values; without a field for them as many as `heads`, with multi-query attention one."""
    if config.get("multi_query") is True or config.get("multi_query_attention") is True:
        return _number(config, "multi_query_group_num") or 1
    return (
        _number(config, "num_key_value_heads", "n_head_kv", "num_kv_heads", "n_kv_heads", "num_attention_groups")
        or heads
    )


def head_dim_of(config: Mapping[str, Any], heads: int | None) -> int | None:
    """As stated, else the hidden size divided among the heads."""
    hidden = _number(config, "hidden_size", "n_embd", "d_model")
    derived = hidden // heads if hidden and heads else None
    return _number(config, "head_dim", "kv_channels") or derived


def max_position_of(config: Mapping[str, Any], documents: Mapping[str, Any], task: Task) -> int | None:
    """Embedding models are also limited by their tokenizer and their sentence-transformers files."""
    names = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length", "n_ctx")
    positions = _number(config, *names)
    if positions and _text(config, "model_type") in ROBERTAS:
        positions -= 1 + (_number(config, "pad_token_id") or 1)
    if task == Task.GENERATE:
        return positions
    bounds = [
        positions,
        _number(_mapping(documents.get(TOKENIZER)), "model_max_length"),
        _number(_mapping(documents.get(SENTENCES)), "max_seq_length"),
    ]
    return min((bound for bound in bounds if bound), default=None)


def own_tokenizer_of(tokenizer: Mapping[str, Any]) -> str | None:
    """The class of a tokenizer whose Python code is in the checkpoint."""
    if "AutoTokenizer" not in _mapping(tokenizer.get("auto_map")):
        return None
    return _text(tokenizer, "tokenizer_class") or "AutoTokenizer"


def has_long_rope(config: Mapping[str, Any]) -> bool:
    rope = _mapping(config.get("rope_parameters")) or _mapping(config.get("rope_scaling"))
    return (_text(rope, "rope_type") or _text(rope, "type")) in ("longrope", "su")


def _quantization(config: Mapping[str, Any]) -> str | None:
    found = _mapping(config.get("quantization_config"))
    return (_text(found, "quant_method") or _text(found, "quant_algo") or "unknown") if found else None


def task_from_config(config: Mapping[str, Any], sizes: Mapping[str, int | None]) -> Task:
    """A classifier with one class returns one score: a reranker."""
    names = _names(config.get("architectures"))
    if any(name.endswith(CLASSIFYING_SUFFIX) for name in names):
        labels = len(_mapping(config.get("id2label"))) or _number(config, "num_labels") or USUAL_LABELS
        return Task.RERANK if labels == 1 else Task.CLASSIFY
    if PIPELINE in sizes:
        return Task.EMBED
    for name in names:
        if name.endswith(EMBEDDING_SUFFIXES) and not name.endswith(CHAT_MODELS_NAMED_MODEL):
            return Task.EMBED
    return Task.GENERATE


def chat_template_of(documents: Mapping[str, Any]) -> str | None:
    """The separate file wins over the tokenizer's entry, which may be a list of named templates."""
    own = documents.get(TEMPLATE)
    if isinstance(own, str) and own:
        return own
    for name in (TEMPLATE_JSON, TOKENIZER):
        entry = _mapping(documents.get(name)).get("chat_template")
        if isinstance(entry, list):
            named = {_text(_mapping(item), "name"): _text(_mapping(item), "template") for item in entry}
            entry = named.get("default")
        if isinstance(entry, str) and entry:
            return entry
    return None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _names(value: Any) -> tuple[str, ...]:
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


def _number(config: Mapping[str, Any], *names: str) -> int | None:
    """The first of these fields with a positive integer; a tokenizer's 1e30 for "no limit" is ignored."""
    for name in names:
        value = config.get(name)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**62:
            return value
    return None


def _text(config: Mapping[str, Any], name: str) -> str | None:
    value = config.get(name)
    return value if isinstance(value, str) else None

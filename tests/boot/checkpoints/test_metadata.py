"""Facts from config.json and the other small files, for existing kinds of models and for broken ones."""

from collections import Counter
from typing import Any

import pytest

from berth.boot.checkpoints.cache_layers import CacheLayer, LayerKind
from berth.boot.checkpoints.metadata import (
    ModelInfo,
    chat_template_of,
    has_long_rope,
    head_dim_of,
    kv_heads_of,
    language_part,
    max_position_of,
    model_info,
    shards,
    task_from_config,
    task_from_name,
    weight_files,
    weights_bytes_of,
    without_weights,
)
from berth.plan import Task
from tests.fakes.boot import QWEN_8B as QWEN


def read(config: dict[str, Any], **sizes: int) -> ModelInfo:
    return model_info("x/y", {"config.json": config}, sizes or {"model.safetensors": 100})


def test_reads_a_common_decoder() -> None:
    info = model_info("Qwen/Qwen3-8B", {"config.json": QWEN}, {"model.safetensors": 123}, local=True)

    assert info == ModelInfo(
        source="Qwen/Qwen3-8B",
        model_type="qwen3",
        architectures=("Qwen3ForCausalLM",),
        dtype="bfloat16",
        hidden_size=4096,
        layers=36,
        heads=32,
        kv_heads=8,
        head_dim=128,
        cache_layers=(CacheLayer(kind=LayerKind.FULL, kv_heads=8, dims=256),) * 36,
        max_position=40960,
        vocab_size=151936,
        weights_bytes=123,
        local=True,
    )


def test_a_multimodal_model_is_read_from_its_language_part() -> None:
    info = read({"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "text_config": QWEN})

    assert (info.model_type, info.layers, info.kv_heads, info.task) == ("gemma3", 36, 8, Task.GENERATE)


def test_finds_nested_text_config() -> None:
    info = read({"model_type": "qwen2_5_omni", "thinker_config": {"text_config": {"num_hidden_layers": 28}}})

    assert info.layers == 28


@pytest.mark.parametrize(
    ("config", "field", "value"),
    [
        ({"n_layer": 12, "n_head": 12, "n_embd": 768}, "head_dim", 64),
        ({"n_layer": 12, "n_head": 12, "n_embd": 768}, "kv_heads", 12),
        ({"num_attention_heads": 71, "multi_query": True}, "kv_heads", 1),
        ({"num_attention_heads": 32, "multi_query_attention": True, "multi_query_group_num": 2}, "kv_heads", 2),
        ({"quantization_config": {"kv_cache_quant_algo": "FP8"}}, "kv_dtype", "fp8"),
        ({"dtype": "torch.float16"}, "dtype", "float16"),
        ({"torch_dtype": "auto"}, "dtype", None),
        ({"quantization_config": {"quant_method": "awq"}}, "quantization", "awq"),
        ({"quantization_config": {"bits": 4}}, "quantization", "unknown"),
        ({"hidden_size": "big", "num_hidden_layers": -1, "vocab_size": True}, "hidden_size", None),
        ({"num_hidden_layers": -1}, "layers", None),
        ({"vocab_size": True}, "vocab_size", None),
        ({"max_position_embeddings": 1e30}, "max_position", None),
        ({"max_position_embeddings": 4096.0}, "max_position", 4096),
        ({"architectures": "Qwen"}, "architectures", ()),
        ({"architectures": [1, "A"]}, "architectures", ("A",)),
        ({"model_type": 7}, "model_type", None),
        ({"text_config": "none"}, "layers", None),
        ({"model_type": "xlm-roberta", "max_position_embeddings": 8194, "pad_token_id": 1}, "max_position", 8192),
        ({"model_type": "roberta", "max_position_embeddings": 514}, "max_position", 512),
        ({"model_type": "bert"}, "encoder_only", True),
    ],
)
def test_fields_in_their_many_spellings_and_with_wrong_types(config: dict[str, Any], field: str, value: Any) -> None:
    assert getattr(read(config), field) == value


@pytest.mark.parametrize(
    ("architecture", "task"),
    [
        ("LlamaForCausalLM", Task.GENERATE),
        ("GPT2LMHeadModel", Task.GENERATE),
        ("ChatGLMModel", Task.GENERATE),
        ("InternVLChatModel", Task.GENERATE),
        ("BertModel", Task.EMBED),
        ("XLMRobertaModel", Task.EMBED),
        ("MistralModel", Task.EMBED),
        ("XLMRobertaForSequenceClassification", Task.CLASSIFY),
        ("Qwen3ForSequenceClassification", Task.CLASSIFY),
    ],
)
def test_the_task_follows_the_architecture(architecture: str, task: Task) -> None:
    assert read({"architectures": [architecture]}).task == task


@pytest.mark.parametrize(
    ("labels", "task"),
    [
        ({"id2label": {"0": "LABEL_0"}}, Task.RERANK),
        ({"num_labels": 1}, Task.RERANK),
        ({"id2label": {"0": "good", "1": "bad", "2": "ugly"}}, Task.CLASSIFY),
        ({}, Task.CLASSIFY),
    ],
)
def test_a_classifier_with_one_class_is_a_reranker(labels: dict[str, Any], task: Task) -> None:
    config = {"architectures": ["XLMRobertaForSequenceClassification"], **labels}

    assert model_info("x/y", {"config.json": config}, {"modules.json": 1}).task == task


def test_sentence_transformers_files_make_an_embedding_model_and_bound_its_context() -> None:
    documents = {
        "config.json": QWEN,
        "tokenizer_config.json": {"model_max_length": 32768},
        "sentence_bert_config.json": {"max_seq_length": 8192},
    }
    info = model_info("x/y", documents, {"modules.json": 1, "model.safetensors": 1})

    assert (info.task, info.max_position) == (Task.EMBED, 8192)


def test_a_tokenizers_limit_does_not_bound_a_chat_model() -> None:
    info = model_info("x/y", {"config.json": QWEN, "tokenizer_config.json": {"model_max_length": 100}}, {})

    assert info.max_position == 40960


@pytest.mark.parametrize(
    ("documents", "template"),
    [
        ({}, None),
        ({"chat_template.jinja": "own", "tokenizer_config.json": {"chat_template": "old"}}, "own"),
        ({"chat_template.jinja": "", "tokenizer_config.json": {"chat_template": "old"}}, "old"),
        ({"chat_template.json": {"chat_template": "json"}}, "json"),
        ({"tokenizer_config.json": {"chat_template": [{"name": "tool", "template": "t"}]}}, None),
        (
            {"tokenizer_config.json": {"chat_template": [{"name": "default", "template": "d"}, "broken"]}},
            "d",
        ),
        ({"tokenizer_config.json": ["no mapping"]}, None),
    ],
)
def test_finds_the_chat_template(documents: dict[str, Any], template: str | None) -> None:
    assert model_info("x/y", {"config.json": QWEN, **documents}, {}).chat_template == template


INDEX = {"metadata": {"total_size": 900}, "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}


@pytest.mark.parametrize(
    ("index", "sizes", "total"),
    [
        (None, {"model.safetensors": 5}, 5),
        (None, {"model-1.safetensors": 5, "model-2.safetensors": 6, "onnx/model.safetensors": 9}, 11),
        (None, {"model.safetensors": 5, "consolidated.safetensors": 5, "adapter_model.safetensors": 1}, 5),
        (None, {"consolidated.safetensors": 5}, 5),
        (None, {"pytorch_model-1.bin": 5, "pytorch_model-2.bin": 6, "training_args.bin": 1}, 11),
        (None, {"model.safetensors": None}, None),
        (None, {}, None),
        (INDEX, {"model-1.safetensors": 400, "model-2.safetensors": 502, "other.safetensors": 9}, 902),
        (INDEX, {"model-1.safetensors": None, "model-2.safetensors": 502}, 900),
        ({"metadata": None, "weight_map": 3}, {"model.safetensors": 7}, 7),
        (["no", "index"], {"model.safetensors": 7}, 7),
    ],
)
def test_weights_bytes(index: Any, sizes: dict[str, int | None], total: int | None) -> None:
    assert model_info("x/y", {"config.json": QWEN, "model.safetensors.index.json": index}, sizes).weights_bytes == total


def test_shards_are_the_files_that_the_index_names() -> None:
    assert shards(INDEX) == {"model-1.safetensors", "model-2.safetensors"}
    assert shards({"weight_map": {"a": 1}}) == shards(None) == set()


def test_layers_have_caches_of_their_kind() -> None:
    sliding = {"layer_types": ["sliding_attention", "full_attention"] * 18, "sliding_window": 1024}
    assert len(read(QWEN).cache_layers) == 36
    assert Counter(layer.window for layer in read({**QWEN, **sliding}).cache_layers) == {None: 18, 1024: 18}


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ({"model.safetensors": 1}, ""),
        ({"model-Q4.gguf": 1}, "GGUF"),
        ({"README.md": 1}, "no weights"),
        ({"deep/model.safetensors": 1}, "no weights"),
    ],
)
def test_unsupported_weights_are_reported(names: dict[str, int | None], problem: str) -> None:
    assert problem in without_weights(names)
    assert bool(weight_files(names)) == (problem == "")


@pytest.mark.parametrize(
    ("source", "task"),
    [
        ("BAAI/bge-m3", Task.EMBED),
        ("Qwen/Qwen3-Embedding-0.6B", Task.EMBED),
        ("intfloat/e5-large-v2", Task.EMBED),
        ("Qwen/Qwen3-Reranker-4B", Task.RERANK),
        ("Qwen/Qwen3-8B", Task.GENERATE),
        ("google/gemma-3n-E5B", Task.GENERATE),
        ("BAAI/bge-reranker-v2-m3", Task.RERANK),
        ("cross-encoder/ms-marco-MiniLM-L6-v2", Task.RERANK),
    ],
)
def test_task_from_name(source: str, task: Task) -> None:
    assert task_from_name(source) == task


@pytest.mark.parametrize(
    ("config", "kv_heads", "head_dim"),
    [
        ({}, 32, None),
        ({"hidden_size": 4096}, 32, 128),
        ({"num_key_value_heads": 8, "head_dim": 64, "hidden_size": 4096}, 8, 64),
        ({"multi_query": True, "n_embd": 2048}, 1, 64),
        ({"multi_query_attention": True, "multi_query_group_num": 2, "kv_channels": 128}, 2, 128),
    ],
)
def test_heads_of_keys_and_values(config: dict[str, Any], kv_heads: int, head_dim: int | None) -> None:
    assert (kv_heads_of(config, 32), head_dim_of(config, 32)) == (kv_heads, head_dim)


def test_language_part_is_the_innermost_section() -> None:
    assert language_part({"vision_config": {"a": 1}}) == {}
    assert language_part({"text_config": {"a": 1}}) == {"a": 1}
    assert language_part({"thinker_config": {"text_config": {"a": 2}}}) == {"a": 2}


def test_only_pooling_models_are_bounded_by_their_tokenizer() -> None:
    config, documents = {"max_position_embeddings": 514}, {"tokenizer_config.json": {"model_max_length": 256}}

    assert max_position_of(config, documents, Task.GENERATE) == 514
    assert max_position_of({**config, "model_type": "roberta", "pad_token_id": 1}, {}, Task.EMBED) == 512
    assert max_position_of(config, documents, Task.EMBED) == 256


def test_each_fact_has_its_own_source() -> None:
    assert task_from_config({}, {"modules.json": 1}) == Task.EMBED
    assert task_from_config({"architectures": ["BertForSequenceClassification"], "num_labels": 1}, {}) == Task.RERANK
    assert chat_template_of({"chat_template.jinja": "a", "tokenizer_config.json": {"chat_template": "b"}}) == "a"
    assert weights_bytes_of({}, {"model.safetensors": 7}) == 7
    assert weights_bytes_of({"metadata": {"total_size": 9}}, {}) == 9


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, False),
        ({"rope_scaling": None}, False),
        ({"rope_scaling": {"type": "yarn", "factor": 4}}, False),
        ({"rope_scaling": {"type": "su"}}, True),
        ({"rope_scaling": {"rope_type": "longrope"}}, True),
        ({"rope_parameters": {"rope_type": "longrope"}}, True),
    ],
)
def test_a_model_of_two_context_lengths_is_recognized(fields: dict[str, Any], expected: bool) -> None:
    assert has_long_rope(fields) is expected

"""`berth plan` for models of today on cards that are not here: the real program, with a fake driver."""

import json
import shutil
from pathlib import Path

import pytest

from berth.plan import Replica
from etc.tools.docs.cards import facts
from tests.fakes.boot import GIB, Machine

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="the fake NVML library is made with cc")

CARDS = {card.name: card for card in facts()[0]}
MODELS = {model.source: model for model in facts()[1]}
INVALID = 78


class Box(Machine):
    """Some cards of one kind, and a model of the table."""

    def __init__(self, folder: Path, card: str, count: int = 1) -> None:
        super().__init__(folder)
        found = CARDS[card]
        self.cards(count, name=found.name, total_mib=found.memory_mib, capability=found.compute_capability)

    def spec(self, source: str, **fields: object) -> str:
        """BERTH_MODELS for this model, under its own name."""
        model = MODELS[source]
        name = source.replace("/", "--")
        if not (self.folder / name).exists():
            self.checkpoint(name, model.config, model.weights_bytes)
        return json.dumps({source: {"source": str(self.folder / name), "engines": ["vllm"], **fields}})

    def replica(self, source: str, **fields: object) -> Replica:
        (found,) = self.plan(self.spec(source, **fields)).replicas
        return found


def test_a_model_that_is_too_large_is_refused_with_the_sum(tmp_path: Path) -> None:
    box = Box(tmp_path, "RTX 4090")
    done = box.run("plan", BERTH_MODELS=box.spec("Qwen/Qwen3.8-27B"))
    assert done.returncode == INVALID
    assert "DOES NOT FIT: on 1 GPU 5" in done.stderr
    assert "weights 51.8 GiB" in done.stderr


def test_the_padding_of_mxfp4_counts(tmp_path: Path) -> None:
    box = Box(tmp_path, "H100 80GB")
    refused = box.run("plan", BERTH_MODELS=box.spec("openai/gpt-oss-120b"))
    assert refused.returncode == INVALID
    assert "vllm: {args: [--max-num-batched-tokens=2048]}" in refused.stderr
    found = box.replica("openai/gpt-oss-120b", vllm={"args": ["--max-num-batched-tokens=2048"]})
    assert found.memory
    assert found.memory.weights_bytes >= 64 * GIB
    assert found.origins["weights"] == "files on this machine, with MXFP4's padding"


def test_a_hybrid_model_gets_the_context_that_its_layers_allow(tmp_path: Path) -> None:
    """100,352 tokens fit by the engine's layout."""
    found = Box(tmp_path, "RTX 3090", 2).replica("Qwen/Qwen3.8-27B-FP8")
    assert found.context
    assert found.context > 0.9 * 100_352
    assert found.gpus == (0, 1)


def test_json_says_what_decided(tmp_path: Path) -> None:
    box = Box(tmp_path, "RTX 4090")
    done = box.run("plan", "--json", BERTH_MODELS=box.spec("openai/gpt-oss-20b", speculation="ngram"))
    (found,) = json.loads(done.stdout)["replicas"]
    assert found["origins"]["context"] == "the model's limit"
    assert {"kv_bytes_per_token", "kv_bytes_per_request", "kv_tokens"} <= found["memory"].keys()
    assert any(note.startswith("speculation: ngram") for note in found["launch"]["notes"])


def test_the_text_says_it_too(tmp_path: Path) -> None:
    box = Box(tmp_path, "L40S")
    lines = box.run("plan", BERTH_MODELS=box.spec("Qwen/Qwen3-8B", kv_dtype="fp8")).stdout.splitlines()
    words = [line.split() for line in lines]
    assert [*["context", "40,960", "tokens", "the", "model's", "limit"]] in words
    assert [*["kv", "dtype", "fp8", "kv_dtype"]] in words


def test_an_fp8_cache_holds_twice_as_much_where_the_card_reads_it(tmp_path: Path) -> None:
    box = Box(tmp_path, "RTX 4090")
    plain, fp8 = (
        replica.memory for replica in (box.replica("Qwen/Qwen3-8B"), box.replica("Qwen/Qwen3-8B", kv_dtype="fp8"))
    )
    assert plain
    assert fp8
    assert fp8.kv_tokens == pytest.approx(2 * plain.kv_tokens, rel=0.01)


def test_an_fp8_cache_is_refused_where_the_card_does_not(tmp_path: Path) -> None:
    box = Box(tmp_path, "RTX 3090")
    done = box.run("plan", BERTH_MODELS=box.spec("Qwen/Qwen3-8B", kv_dtype="fp8"))
    assert done.returncode == INVALID
    assert "an FP8 cache needs compute capability 8.9: RTX 3090 (8.6)" in done.stderr


def test_offload_beyond_the_memory_of_the_host_is_refused(tmp_path: Path) -> None:
    box = Box(tmp_path, "RTX 4090")
    done = box.run("plan", BERTH_MODELS=box.spec("Qwen/Qwen3-8B", kv_offload="512TiB"))
    assert done.returncode
    assert "kv_offload takes 524288.0 GiB of memory" in done.stderr

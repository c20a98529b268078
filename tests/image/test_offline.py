"""Without a network: what is in the volume is served, and what is missing is named before anything starts."""

from collections.abc import Iterator

import pytest

from tests.image.container import TINY, Container, in_volume, new_volume, run_to_end

pytestmark = [pytest.mark.image, pytest.mark.timeout(180), pytest.mark.usefixtures("vllm")]

MODEL = "berth/tiny"
CACHED = "/data/huggingface/hub/models--berth--tiny"
FILL = f"""
mkdir -p {CACHED}/refs {CACHED}/snapshots
echo -n abc >{CACHED}/refs/main
cp -r {TINY} {CACHED}/snapshots/abc
chmod -R a+rwX /data
"""
NO_NETWORK = ("--network", "none")


@pytest.fixture
def volume() -> Iterator[str]:
    with new_volume() as name:
        in_volume(name, FILL)
        yield name


def options(volume: str) -> tuple[str, ...]:
    return (*NO_NETWORK, "--volume", f"{volume}:/data")


def test_serves_a_model_of_the_volume(volume: str) -> None:
    with Container(f"tiny={MODEL}@vllm", options=options(volume), BERTH_OFFLINE="1") as container:
        answer = ["curl", "-fsS", "http://127.0.0.1:8000/ready"]
        container.wait(lambda: '"ready":true' in container.execute("sh", "-c", f"{' '.join(answer)} || true"), 170)


@pytest.mark.parametrize("missing", ["model.safetensors", "tokenizer.json", "config.json"])
def test_missing_file_is_named_and_nothing_starts(volume: str, missing: str) -> None:
    in_volume(volume, f"rm {CACHED}/snapshots/abc/{missing}")
    ended = run_to_end(models=f"tiny={MODEL}@vllm", options=options(volume), BERTH_OFFLINE="1")
    assert ended.code in {69, 78}
    assert missing.partition(".")[0] in ended.stderr
    assert MODEL in ended.stderr


def test_missing_model_is_named() -> None:
    ended = run_to_end(models=f"tiny={MODEL}@vllm", options=NO_NETWORK, BERTH_OFFLINE="1")
    assert ended.code in {69, 78}
    assert MODEL in ended.stderr

"""The real vLLM and the real SGLang with the same weights: each goes on with the streams of the other. Opt-in, since it
takes another 3 GB: `make e2e-sglang`.
"""

import json
import os
from pathlib import Path

import pytest

from etc.setup.sglang_cpu.install import is_installed
from tests.chaos.witness import Api
from tests.e2e.appliance import ROOT, Appliance
from tests.e2e.scene import Ask, play

pytestmark = [pytest.mark.slow, pytest.mark.engine, pytest.mark.timeout(600)]

BEGINNING = "Every morning the"  # of the text that the model knows
SGLANG = ROOT / ".engines/sglang-cpu"
SMALL = ["--mem-fraction-static", "0.1", "--max-total-tokens", "8192"]
ASKS: tuple[Ask, ...] = (
    (Api.CHAT, {}),
    (Api.COMPLETIONS, {"prompt": BEGINNING, "max_tokens": 200}),
    (Api.CHAT, {"max_tokens": 100}),
    (Api.CHAT, {}),
)


@pytest.fixture
def home(forked_vllm: Path, tmp_path: Path) -> Path:
    """An engine home with both."""
    if not os.environ.get("E2E_SGLANG") or not is_installed(SGLANG):
        pytest.skip("takes minutes and 3 GB: make e2e-sglang")
    (tmp_path / "vllm").symlink_to(forked_vllm / "vllm")
    (tmp_path / "sglang").symlink_to(SGLANG)
    return tmp_path


@pytest.mark.parametrize("order", [("vllm", "sglang"), ("sglang", "vllm")], ids="-".join)
def test_a_stream_goes_on_with_the_other_engine(home: Path, tiny_model: Path, order: tuple[str, str]) -> None:
    engines = [{"engine": name, "args": SMALL if name == "sglang" else []} for name in order]
    model = {"source": str(tiny_model), "engines": engines, "standby": "hot", "context": 1024}
    with Appliance(json.dumps({"m": model}), BERTH_ENGINE_HOME=str(home)) as berth:
        expected, seen = play(berth, ASKS, least=1)

    assert expected[0].text == json.loads((tiny_model / "script.json").read_text())["paragraph"]
    assert [(one.text, one.finish, one.error) for one in seen] == [(one.text, one.finish, None) for one in expected]

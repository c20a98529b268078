"""The fake engines are as strict as those that they stand in for."""

import shutil
from pathlib import Path

import pytest

from berth.engines.registry import ENGINES
from berth.plan import EngineName, Launch
from tests.fakes.orders import launch_order
from tests.fakes.recordings import FIXTURES
from tests.image.fake_engines import engine as fake_engines

ENGINES_THAT_NEED_A_GPU = (EngineName.SGLANG, EngineName.TRTLLM)


@pytest.fixture(autouse=True)
def _tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the image has them."""
    shutil.copy(FIXTURES / "sglang/flags_0.5.23.json", tmp_path / "sglang.json")
    shutil.copy(FIXTURES / "trtllm/flags_1.2.1.json", tmp_path / "trtllm.json")
    shutil.copy(Path(fake_engines.__file__).with_name("trtllm_options.json"), tmp_path)
    monkeypatch.setattr(fake_engines, "TABLES", tmp_path)


def launch(engine: EngineName, tmp_path: Path) -> Launch:
    """With its files written, as `berth exec` does it."""
    made = ENGINES[engine].launch(launch_order(gpus=1, run_dir=str(tmp_path)))
    for path, text in {**made.files, **made.key_files}.items():
        Path(path).write_text(text)
    return made


@pytest.mark.parametrize("engine", ENGINES_THAT_NEED_A_GPU)
def test_fake_engines_accept_berths_command_lines(engine: EngineName, tmp_path: Path) -> None:
    options = fake_engines.options_of(engine, launch(engine, tmp_path).argv[2:])
    argv = fake_engines.simulation(engine, options)
    assert argv[:6] == ["--dialect", engine, "--host", "127.0.0.1", "--port", "21001"]


@pytest.mark.parametrize("engine", ENGINES_THAT_NEED_A_GPU)
def test_unknown_option_is_rejected(engine: EngineName, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        fake_engines.options_of(engine, [*launch(engine, tmp_path).argv[2:], "--no-such-option"])
    assert ended.value.code == 2
    assert "--no-such-option" in capsys.readouterr().err


@pytest.mark.parametrize("lines", ["no_such_option: 1", "kv_cache_config: {no_such_option: 1}"])
def test_unknown_option_in_the_file_is_rejected(lines: str, tmp_path: Path) -> None:
    made = launch(EngineName.TRTLLM, tmp_path)
    (path,) = made.files
    Path(path).write_text(f"{lines}\n")
    with pytest.raises(SystemExit, match="no_such_option: Extra inputs are not permitted"):
        fake_engines.options_of("trtllm", made.argv[2:])


def test_reads_the_key_from_sglangs_file(tmp_path: Path) -> None:
    made = launch(EngineName.SGLANG, tmp_path)
    (path,) = made.key_files
    Path(path).write_text("api-key: secret\n")
    assert fake_engines.options_of("sglang", made.argv[2:]).api_key == "secret"

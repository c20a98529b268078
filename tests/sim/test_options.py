from pathlib import Path

import pytest

from berth.plan import DialectName, Task
from berth.sim.faults.table import FAULTS
from berth.sim.options import PARAGRAPH, Options, Reasoning, parse_options


def test_defaults_to_vllm_with_a_readable_text() -> None:
    assert parse_options([]) == Options()
    assert "é" in PARAGRAPH
    assert "🦊" in PARAGRAPH


def test_parses_every_option(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("One two.")
    line = (
        "--dialect sglang --host ::1 --port 9 --admin-port 10 --served-model-name a b --context 64 --task embed "
        f"--ttft 10ms --itl 1ms --text-file {text} --load-time 2s --vocab-size 300 --max-running 3 --max-queued 0 "
        "--itl-per-running 2ms --prefill-rate 9e3 --jitter 0.2 --kv-tokens 99 --prefix-cache --differs 0.5 --seed 4 "
        "--reasoning always --no-tools --dimensions 8 --api-key k --keep-alive 1s --access-log "
        "--gpu-folder /held --gpu-memory 0:100 1:200 "
        "--fault null status=500@2 --fault cut-after=3"
    )
    assert parse_options(line.split()) == Options(
        dialect=DialectName.SGLANG,
        host="::1",
        port=9,
        admin_port=10,
        names=("a", "b"),
        context=64,
        task=Task.EMBED,
        ttft_s=0.01,
        itl_s=0.001,
        itl_per_running_s=0.002,
        prefill_rate=9000.0,
        jitter=0.2,
        kv_tokens=99,
        prefix_cache=True,
        differs=0.5,
        seed=4,
        text="One two.",
        load_s=2.0,
        vocab_size=300,
        max_running=3,
        max_queued=0,
        reasoning=Reasoning.ALWAYS,
        tools=False,
        dimensions=8,
        api_key="k",
        keep_alive_s=1.0,
        access_log=True,
        gpu_folder="/held",
        gpu_memory_mib={0: 100, 1: 200},
        faults=("null", "status=500@2", "cut-after=3"),
    )


@pytest.mark.parametrize(
    ("line", "environ", "key"),
    [
        ("", {"SIM_API_KEY": "secret"}, "secret"),
        ("--api-key told", {"SIM_API_KEY": "secret"}, "told"),
        ("", {"SIM_API_KEY": ""}, None),
    ],
)
def test_reads_the_key_from_a_variable(line: str, environ: dict[str, str], key: str | None) -> None:
    assert parse_options(line.split(), environ).api_key == key


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--port 70000", "'70000': must be from 0 to 65535"),
        ("--port x", "'x' is not an integer"),
        ("--context 0", "'0': must be at least 1"),
        ("--vocab-size 10", "'10': must be at least 259"),
        ("--ttft fast", "'fast' is not a duration; examples: 20ms, 1.5s, 2m"),
        ("--fault explode", "unknown fault 'explode'"),
        ("--text-file /no/such/file", "No such file"),
        ("--text ''", "the text is empty"),
        ("--dialect ollama", "invalid choice"),
        ("--gpu-memory 20GiB", "'20GiB': expected a GPU's index and MiB, such as 0:20480"),
        ("--dialect trtllm --can-sleep", "TensorRT-LLM has no sleep mode"),
    ],
)
def test_invalid_command_line_exits_with_2_and_a_message(
    line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        parse_options([word.strip("'") for word in line.split()])
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err


def test_rejects_text_that_is_not_utf8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"caf\xe9")
    with pytest.raises(SystemExit):
        parse_options(["--text-file", str(path)])
    assert "can't decode" in capsys.readouterr().err


def test_help_documents_every_fault(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_options(["--help"])
    shown = capsys.readouterr().out
    assert [name for name in FAULTS if f"  {name} " not in shown] == []

from datetime import UTC, datetime

import pytest

from berth.plan import DialectName
from berth.sim import startup_log

MOMENT = datetime(2026, 11, 21, 3, 4, 5, tzinfo=UTC)
SHARDS = "Loading safetensors checkpoint shards:  50% Completed | 2/4 [00:05<00:00,  1.00it/s]"


@pytest.mark.parametrize(
    ("dialect", "line"),
    [
        (
            "vllm",
            f"(EngineCore_DP0 pid=7) {SHARDS}",
        ),
        ("sglang", SHARDS),
        ("trtllm", "Loading weights:  50%|█████     | 2/4 [00:05<00:00,  1.00it/s]"),
    ],
)
def test_logs_progress_in_the_engines_format(dialect: str, line: str) -> None:
    lines = list(startup_log.load_lines(DialectName(dialect), "m", 10.0, MOMENT))
    assert (0.4, line) in [(round(share, 3), text) for share, text in lines]
    assert [share for share, _ in lines] == sorted(share for share, _ in lines)


@pytest.mark.parametrize(
    ("dialect", "stamp"),
    [("vllm", "11-21 03:04:05"), ("sglang", "2026-11-21 03:04:05"), ("trtllm", "11/21/2026-03:04:05")],
)
def test_lines_have_the_engines_time_format(dialect: str, stamp: str) -> None:
    assert stamp in next(text for _, text in startup_log.load_lines(DialectName(dialect), "m", 0.0, MOMENT))
    assert stamp in startup_log.fatal_lines(DialectName(dialect), MOMENT)[0]


def test_vllms_fatal_lines_have_the_cause_before_the_last_line() -> None:
    cause, last = startup_log.fatal_lines(DialectName.VLLM, MOMENT)
    assert "CUDA out of memory" in cause
    assert last.startswith("RuntimeError: Engine core initialization failed. See root cause above.")


def test_ready_lines_name_the_address() -> None:
    lines = startup_log.ready_lines(DialectName.SGLANG, "127.0.0.1", 81, 7, MOMENT)
    assert "INFO:     Uvicorn running on http://127.0.0.1:81 (Press CTRL+C to quit)" in lines
    assert lines[-1].endswith("The server is fired up and ready to roll!")


@pytest.mark.parametrize("dialect", ["vllm", "trtllm"])
def test_logs_a_port_in_use(dialect: str) -> None:
    assert "ddress already in use" in startup_log.port_in_use_lines(DialectName(dialect), "h", 1)[0].replace(
        "address", "Address"
    )

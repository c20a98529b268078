"""Phases and percentages from engine logs."""

import pytest

from berth.control.logs.load_progress import Bar, Tracker, advance, log_level, parse_bar
from berth.state import Progress

VLLM = [
    ("berth exec: forked from the preloaded vllm, as process 17947", "fork", None),
    ("berth exec: started without the preloaded vllm: the fork ended with 1", "import", None),
    ("INFO [arg_utils.py:9] non-default args: {'compilation_config': 'torch.compile'}", "import", None),
    ("WARNING [vllm.py:1703] Enforce eager set, disabling torch.compile, CUDAGraphs", "import", None),
    ("INFO 11-21 03:41:00 [gpu_model_runner.py:4820] Starting to load model Qwen/Qwen3-8B...", "load", None),
    ("Fetching 4 files:  25%|##5       | 1/4 [00:00<00:00,  9.71it/s]", "download", 25),
    ("model-00001-of-00002.safetensors:  10%|#         | 100M/1.00G [00:05<00:38, 90.5MB/s]", "download", 10),
    ("model-00002-of-00002.safetensors:  50%|#####     | 500M/1.00G [00:05<00:38, 90.5MB/s]", "download", 30),
    ("Fetching 4 files:  50%|#####     | 2/4 [00:00<00:00,  9.71it/s]", "download", 30),
    ("Loading safetensors checkpoint shards:  25% Completed | 1/4 [00:00<00:01,  2.04it/s]", "load", 25),
    ("(EngineCore pid=9) INFO 06-02 00:51:39 [default_loader.py:397] Loading weights took 26.93 seconds", "load", 25),
    ("(EngineCore pid=9) INFO [backends.py:1148] Dynamo bytecode transform time: 8.52 s", "compile", None),
    ("Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):  34%|###      | 23/67 [00:01<", "graphs", 34),
    ("INFO 05-06 [gpu_model_runner.py:99] Graph capturing finished in 12 secs", "graphs", 34),
    ("INFO 05-06 [core.py:201] init engine (profile, create kv cache, warmup model) took 31 seconds", "warm-up", None),
    ("INFO:     127.0.0.1:5 - GET /v1/models 200 OK", "warm-up", None),
]
SGLANG = [
    ("[2025-03-07 23:50:27 TP0] Load weight begin. avail mem=22.46 GB", "load", None),
    ("Multi-thread loading shards: 50% Completed | 2/4 [00:00<00:01]", "load", 50),
    ("[2025-03-27 21:33:31 TP0] Capture cuda graph begin. This can take up to several minutes.", "graphs", None),
    ("Capturing batches (bs=1 avail_mem=11.18 GB): 100%|######| 36/36 [00:10<00:00,  3.37it/s]", "graphs", 100),
]
HUB = [
    ("Reconstructing (incomplete total...):  45%|####5     | 4.50GB / 9.00GB , 100MB/s", "download", 50),
    ("Downloading bytes: ####      | 4.50GB            ", "download", 50),
    ("weights.bin:   0%|          | 0.00/3.95G [00:00<?, ?B/s]", "download", 34.7),
]
TRTLLM = [
    ("[TRT-LLM] [I] Prefetching checkpoint files into memory", "load", None),
    ("Loading weights:  45%|####5     | 131/291 [00:01<00:01, 99.1it/s]", "load", 45),
    ("[TRT-LLM] [I] [Autotuner] Autotuning process starts ...", "warm-up", None),
    ("[TRT-LLM] [I] Creating CUDA graph instances for 34 batch sizes.", "graphs", None),
]


@pytest.mark.parametrize("lines", [VLLM, SGLANG, HUB, TRTLLM], ids=["vllm", "sglang", "hub", "trtllm"])
def test_follows_a_start_through_its_log(lines: list[tuple[str, str, float | None]]) -> None:
    tracker = Tracker()
    seen = []
    for line, _, _ in lines:
        tracker = advance(tracker, line)
        seen.append((line, tracker.progress.phase, tracker.progress.percent))
    assert seen == lines


def test_a_download_has_its_size() -> None:
    first = advance(Tracker(), "model-1.safetensors:  10%|#  | 100M/1.00G [00:05<00:38, 90.5MB/s]")
    second = advance(first, "model-2.safetensors:  50%|###  | 500M/1.00G [00:05<00:38, 90.5MB/s]")
    third = advance(second, "Loading safetensors checkpoint shards:  25% Completed | 1/4 [")
    sizes = [(one.progress.done_bytes, one.progress.total_bytes) for one in (first, second, third)]
    assert sizes == [(100_000_000, 10**9), (600_000_000, 2 * 10**9), (None, None)]


def test_counts_progress_of_downloads_and_loads_only() -> None:
    tracker = Tracker()
    counts = []
    for line in ("shards: 1%|x", "checkpoint shards: 1%|", "checkpoint shards: 1%|", "checkpoint shards: 2%|", "ninja"):
        tracker = advance(tracker, line)
        counts.append(tracker.moves)
    assert counts == [0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "INFO engine args: {'load': 'x'}",
        "GPU at 50% of 80 GB",
        "x" * 2000 + " Loading weights",
        "a: 10%|# | 1.2.3/4G [0",
    ],
)
def test_ignores_other_lines(line: str) -> None:
    assert advance(Tracker(), line).progress == Progress(phase="process")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Fetching 4 files:  25%|##5  | 1/4 [", Bar(what="Fetching 4 files", percent=25)),
        ("Loading shards: 300% Completed | 1/4", Bar(what="Loading shards", percent=100)),
        ("Downloading bytes: ##   | 4.50GB", Bar(what="Downloading bytes", percent=0)),
        ("Capturing batches (bs=8 avail_mem=1.5 GB):  50%|##| 1/2 [", Bar(what="Capturing batches", percent=50)),
        ("(EngineCore pid=7) Loading shards:   5% Completed | 1/20 [", Bar(what="Loading shards", percent=5)),
        ("[12/48] c++ -MMD -MF x.o", Bar(what="build", percent=25)),
        ("[1/0] what", None),
        ("Loading: 17it [00:03,  5.21it/s]", Bar(what="Loading", percent=0)),
        ("18it [00:03,  5.21it/s]", Bar(what="", percent=0)),
        ("INFO: GET /a|b 200", None),
        ("used 25% of memory", None),
    ],
)
def test_recognizes_progress_bars(line: str, expected: Bar | None) -> None:
    assert parse_bar(line) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("(APIServer pid=1) INFO 11-21 03:41:00 [x.py:1] up", "info"),
        ("WARNING [vllm.py:1703] careful", "warning"),
        ("2025-03-07 23:50:27,1 - x - ERROR - bad", "error"),
        ("[11/21/2025-03:41:00] [TRT-LLM] [W] careful", "warning"),
        ("[2025-03-07 23:50:27 TP0] Load weight begin", None),
        ("x" * 100 + " ERROR", None),
        ("CRITICAL: gone", "critical"),
    ],
)
def test_reads_the_log_level_of_the_engine(line: str, expected: str | None) -> None:
    assert log_level(line) == expected

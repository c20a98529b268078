"""Checks on a machine with an NVIDIA GPU what Berth relies on: `make gpu-check`. At most 8 minutes.

Needs PyTorch for a process that holds memory. Engines are checked where they are installed. The results go to a file;
its "measured" has the form of measured.json.
"""

import argparse
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from berth.host.gpu_usage import Gpus
from berth.host.gpus import inventory
from berth.records.measured import MEASURED_VERSION
from etc.tools.gpu_check import engines
from etc.tools.gpu_check.parts import PARTS, Bench, Json

LONGEST_S = 480.0
ENGINES = ("vllm", "sglang")
HOLDER = Path(__file__).with_name("holder.py")


def main(words: Sequence[str] | None = None) -> int:
    """0: all that could be checked is as Berth expects it; 1: something is not, or there is no GPU."""
    options = parse(words)
    began, found = time.monotonic(), inventory()
    if not found.gpus:
        sys.stdout.write(f"no NVIDIA GPU here, nothing was checked: {found.reason}\n")
        return 1
    gpu = next((one for one in found.gpus if one.index == options.gpu), found.gpus[0])
    bench = Bench(gpu=gpu, gpus=Gpus([gpu.index]), holder=shlex.split(options.holder) or [options.python, str(HOLDER)])
    parts = {name: _show(name, _part(name, bench)) for name in PARTS}
    for engine in ENGINES if options.model else ():
        with tempfile.TemporaryDirectory(prefix="berth-gpu-check-") as folder:
            left_s = LONGEST_S - (time.monotonic() - began)
            parts[engine] = _show(engine, engines.check(bench, engine, options.model, Path(folder), left_s / 2))
    kept = [one for part in parts.values() if (one := part.pop("measurement", None))]
    document = {
        "at": int(time.time()),
        "driver": found.driver_version,
        "gpu": msgspec.to_builtins(gpu),
        "seconds": round(time.monotonic() - began),
        "parts": parts,
        "measured": {"version": MEASURED_VERSION, "measurements": kept},
    }
    Path(options.output).write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n")
    sys.stdout.write(f"written to {options.output}\n")
    failed = [name for name, part in parts.items() if not is_as_expected(part)]
    sys.stdout.write(f"not as expected: {', '.join(failed)}\n" if failed else "")
    return 1 if failed else 0


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m etc.tools.gpu_check", description=__doc__)
    parser.add_argument("--gpu", type=int, default=0, metavar="INDEX")
    parser.add_argument("--python", default=sys.executable, help="an interpreter with PyTorch (default: this one)")
    parser.add_argument("--holder", default="", metavar="COMMAND", help="holds memory, in place of PyTorch")
    parser.add_argument("--model", default="", help="a model with which the installed engines are checked")
    parser.add_argument("--output", default="gpu-check.json", metavar="FILE")
    return parser.parse_args(words)


def is_as_expected(part: Json) -> bool:
    """A part that was skipped, or that only measures, is."""
    wanted = {"alike": True, "released": True, "ok": True, "sleep": ("ok", "it has no sleep mode"), "wake": "ok"}
    for name, value in wanted.items():
        allowed = value if isinstance(value, tuple) else (value,)
        if name in part and part[name] not in allowed:
            return False
    return "failed" not in part


def _part(name: str, bench: Bench) -> Json:
    try:
        return PARTS[name](bench)
    except (OSError, RuntimeError, KeyError) as error:  # KeyError: the GPU no longer responds
        return {"failed": f"{type(error).__name__}: {error}"}


def _show(name: str, part: Json) -> Json:
    shown = {key: value for key, value in part.items() if key not in ("curve_ms_mib", "measurement", "log")}
    sys.stdout.write(f"{name}: {', '.join(f'{key}={value}' for key, value in shown.items())}\n")
    sys.stdout.flush()
    return part


if __name__ == "__main__":
    sys.exit(main())

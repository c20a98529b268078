"""What a process says about itself before it is forked."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from berth.boot.preload import server

DRIVER = "int cuCtxGetCurrent(void **context) { *context = 0; return %d; }"
LOOK = "import ctypes, sys; ctypes.CDLL(sys.argv[2]); sys.path.insert(0, sys.argv[1]); import server; %s"


@pytest.mark.parametrize(
    ("result", "said"),
    [(3, ""), (0, "CUDA is initialized in it, and does not survive a fork")],  # 3: CUDA_ERROR_NOT_INITIALIZED
)
def test_cuda_in_use_cannot_be_forked(tmp_path: Path, result: int, said: str) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler to make a driver with")
    (tmp_path / "cuda.c").write_text(DRIVER % result)
    library = tmp_path / "libcuda.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, tmp_path / "cuda.c"], check=True)
    folder = str(Path(server.__file__).parent)
    command = [sys.executable, "-c", LOOK % "print(server.unsafe(), end='')", folder, str(library)]
    assert subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.decode() == said


def test_without_a_driver_cuda_is_not_in_use() -> None:
    assert server.cuda_is_initialized() is False


def test_the_state_is_kept_where_it_can_be_written(tmp_path: Path) -> None:
    config = server.Config(
        socket="", state=str(tmp_path / "state.json"), script="/x", modules=(), differing=(), replaced={}
    )
    assert server.write_state(config, pid=7) == {"pid": 7}
    assert server.write_state(config, ready=True) == {"pid": 7, "ready": True}
    (tmp_path / "state.json").write_text("{")
    assert server.write_state(config, pid=8) == {"pid": 8}

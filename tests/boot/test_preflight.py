"""Each check against a real port, a real full disk and a read-only directory; limits and GPUs by made-up figures."""

import errno
import os
import resource
import socket
import subprocess
import sys
from collections import namedtuple
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from berth.boot import preflight
from berth.boot.config.settings import Settings
from berth.boot.preflight import Finding, Level, What
from berth.errors import MachineError, PortInUseError, UnwritableError
from berth.plan import DriverState, Gpu, GpuInventory, Launch, MemoryEstimate, Sleep
from tests.fakes import certificates
from tests.fakes.plans import make_replica

GIB = 2**30
GPU = Gpu(
    index=0,
    uuid="GPU-0",
    name="Fake 80GB",
    memory_total_bytes=80 * GIB,
    memory_free_bytes=79 * GIB,
    compute_capability="9.0",
)
DRIVEN = GpuInventory(state=DriverState.OK, driver_version="580.10", cuda_version="13.0", gpus=(GPU,))
REPLICA = make_replica(launch=Launch(argv=("engine",)))
ESTIMATE = MemoryEstimate(weights_bytes=GIB, kv_bytes_per_token=1, kv_bytes=GIB, overhead_bytes=0, largest_context=4096)


def finding(level: Level, what: What) -> Finding:
    return Finding(level=level, what=what, detail=f"the {what}", remedy="Mend it")


@pytest.mark.parametrize(
    ("what", "error", "code"),
    [
        (What.PORT, PortInUseError, 69),
        (What.RUN_DIR, UnwritableError, 73),
        (What.DATA_DIR, UnwritableError, 73),
        (What.RAM, MachineError, 69),
    ],
)
def test_raises_the_error_of_the_first_failure(what: What, error: type[MachineError], code: int) -> None:
    findings = [finding(Level.WARN, What.FILES), finding(Level.FAIL, what), finding(Level.FAIL, What.DRIVER)]
    with pytest.raises(error) as caught:
        preflight.require(findings)
    assert type(caught.value) is error
    assert caught.value.exit_code == code
    assert str(caught.value) == f"{what}: the {what}. Mend it\ndriver: the driver. Mend it"


def test_warnings_raise_nothing() -> None:
    preflight.require([finding(Level.OK, What.PORT), finding(Level.WARN, What.RAM)])  # passes: no exception


def test_warns_about_quotes_that_engines_would_read() -> None:
    environ = {
        "HF_HOME": '"/data/hf"',
        "https_proxy": "'http://p:3128'",
        "HF_TOKEN": '"x"',
        "PS1": '"$ "',
        "NCCL_P2P": "1",
    }

    (found,) = preflight.quoted_variables(environ)

    assert (found.level, found.what) == (Level.WARN, What.CONFIG)
    assert "HF_HOME, https_proxy is in quotes" in found.detail
    assert preflight.quoted_variables({"HF_HOME": "/data/hf"}) == []


def test_port_in_use_names_its_listener() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        number = server.getsockname()[1]
        taken = [preflight.port(host, number) for host in ("127.0.0.1", "0.0.0.0", "localhost")]
    assert preflight.port("127.0.0.1", number).level is Level.OK
    assert {one.level for one in taken} == {Level.FAIL}
    assert f"127.0.0.1:{number} is in use by " in taken[0].detail
    assert f"(pid {os.getpid()})" in taken[0].detail
    assert "BERTH_PORT" in taken[0].remedy


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("203.0.113.7", "'203.0.113.7' is not an address of this host"),
        ("no such host.invalid", "BERTH_HOST='no such host.invalid' is not an address"),
    ],
)
def test_explains_an_invalid_host(host: str, words: str) -> None:
    found = preflight.port(host, 8000)
    assert found.level is Level.FAIL
    assert words in found.detail
    assert "0.0.0.0" in found.remedy


@pytest.mark.parametrize(
    ("number", "words"), [(errno.EACCES, "requires root privileges"), (errno.EIO, "Input/output error")]
)
def test_explains_other_port_errors(monkeypatch: pytest.MonkeyPatch, number: int, words: str) -> None:
    monkeypatch.setattr(preflight, "bind_error", lambda _host, _port: OSError(number, os.strerror(number)))
    assert words in preflight.port("127.0.0.1", 80).detail


def test_hidden_listener_is_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_kind: str) -> list[object]:
        raise PermissionError

    monkeypatch.setattr("psutil.net_connections", refuse)
    assert preflight.listener(8000) == ""
    monkeypatch.setattr("psutil.net_connections", lambda _kind: [])
    assert preflight.listener(8000) == ""


def test_writable_directory_shows_free_space(tmp_path: Path) -> None:
    found = preflight.writable(What.RUN_DIR, "BERTH_RUN_DIR", str(tmp_path), 0)
    assert found.level is Level.OK
    assert f"{str(tmp_path)!r} is writable, " in found.detail
    assert list(tmp_path.iterdir()) == []


def test_checks_the_parent_of_a_missing_directory(tmp_path: Path) -> None:
    found = preflight.writable(What.DATA_DIR, "BERTH_DATA", str(tmp_path / "a/b"), 0)
    assert found.level is Level.OK
    assert f"can be created in {str(tmp_path)!r}" in found.detail
    assert list(tmp_path.iterdir()) == []


def test_warns_about_little_space(tmp_path: Path) -> None:
    found = preflight.writable(What.DATA_DIR, "BERTH_DATA", str(tmp_path), 2**60)
    assert found.level is Level.WARN
    assert "BERTH_DATA" in found.remedy


@pytest.mark.skipif(not os.access("/dev/full", os.W_OK), reason="no /dev/full here")
@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "Free space in"),
        (errno.EROFS, "Mount a volume there (`-v berth:/"),
        (errno.EACCES, "Give it to user "),
        (errno.EIO, "Give user "),
    ],
)
def test_unwritable_directory_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, remedy: str) -> None:
    def refuse(**_options: object) -> object:
        if number == errno.ENOSPC:
            return Path("/dev/full").open("wb", buffering=0)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    found = preflight.writable(What.RUN_DIR, "BERTH_RUN_DIR", str(tmp_path), 0)
    assert found.level is Level.FAIL
    assert os.strerror(number) in found.detail
    assert found.remedy.startswith(remedy)


def test_path_below_a_file_fails(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = preflight.writable(What.RUN_DIR, "BERTH_RUN_DIR", str(tmp_path / "file/run"), 0)
    assert found.level is Level.FAIL
    assert "Not a directory" in found.detail


@pytest.mark.parametrize(
    ("gpus", "free_mib", "level"),
    [
        (2, 64, Level.FAIL),  # Docker's
        (2, 128, Level.FAIL),
        (2, 256, Level.WARN),
        (2, 1024, Level.OK),
        (8, 256, Level.FAIL),
        (8, 1024, Level.WARN),
        (8, 16384, Level.OK),
    ],
)
def test_checks_shared_memory_for_all_gpus_of_a_replica(
    monkeypatch: pytest.MonkeyPatch, gpus: int, free_mib: int, level: Level
) -> None:
    usage = namedtuple("usage", "free")  # noqa: PYI024 - as psutil's
    monkeypatch.setattr("psutil.disk_usage", lambda _path: usage(free_mib << 20))
    [found] = preflight.shared_memory([replace(REPLICA, gpus=tuple(range(gpus)))])
    assert found.level is level
    assert level is Level.OK or "--shm-size=16g or --ipc=host" in found.remedy


def test_shared_memory_matters_only_for_several_gpus() -> None:
    spanning = replace(REPLICA, gpus=(0, 1))
    assert preflight.shared_memory([replace(REPLICA, gpus=(0,)), replace(spanning, launch=None)]) == []
    [missing] = preflight.shared_memory([spanning], "/nowhere")
    assert missing.level is Level.FAIL
    assert missing.detail.startswith(f"/nowhere has 0 MiB free, and {REPLICA.name} on several GPUs")


def test_shared_memory_counts_the_largest_replica_per_model(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "free")  # noqa: PYI024 - as psutil's
    monkeypatch.setattr("psutil.disk_usage", lambda _path: usage(200 << 20))
    one, standby = replace(REPLICA, gpus=(0, 1)), replace(REPLICA, name="second", gpus=(0, 1))
    assert [found.level for found in preflight.shared_memory([one, standby])] == [Level.WARN]
    other = replace(standby, model="other")
    assert [found.level for found in preflight.shared_memory([one, other])] == [Level.FAIL]


@pytest.mark.parametrize(
    ("hard", "gpus", "count"), [(8 << 20, 2, 1), (8 << 20, 1, 0), (64 << 20, 2, 0), (resource.RLIM_INFINITY, 2, 0)]
)
def test_warns_about_little_lockable_memory_for_several_gpus(
    monkeypatch: pytest.MonkeyPatch, hard: int, gpus: int, count: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _what: (hard, hard))
    found = preflight.locked_memory([replace(REPLICA, gpus=tuple(range(gpus)))])
    assert [one.level for one in found] == [Level.WARN] * count
    assert all("--ulimit memlock=-1" in one.remedy for one in found)


def test_counts_memory_of_replicas_on_the_cpu() -> None:
    on_cpu, on_gpu = replace(REPLICA, memory=ESTIMATE), replace(REPLICA, memory=ESTIMATE, gpus=(0,))
    assert preflight.memory([REPLICA, on_gpu], available=0).level is Level.OK
    assert preflight.memory([on_cpu, on_gpu], available=2 * GIB).level is Level.OK
    short = preflight.memory([on_cpu, on_cpu], available=2 * GIB)
    assert short.level is Level.WARN
    assert short.detail == "2.0 GiB available, 4.0 GiB needed by replicas on the CPU"


def test_counts_memory_of_sleeping_replicas() -> None:
    sleep = Sleep(sleep_path="/sleep", wake_path="/wake_up")
    asleep = replace(REPLICA, memory=ESTIMATE, gpus=(0, 1), sleep=sleep)
    weights = 2 * ESTIMATE.weights_bytes
    assert preflight.memory([asleep], available=weights).level is Level.OK
    short = preflight.memory([asleep], available=weights - 1)
    assert short.level is Level.WARN
    assert short.detail.endswith("needed by sleeping replicas")


@pytest.mark.parametrize(("hard", "level"), [(1024, Level.WARN), (4096, Level.OK), (resource.RLIM_INFINITY, Level.OK)])
def test_warns_about_few_open_files(monkeypatch: pytest.MonkeyPatch, hard: int, level: Level) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _what: (256, hard))
    assert preflight.open_files().level is level


@pytest.mark.parametrize(
    ("soft", "hard", "wanted"),
    [
        (1024, 4096, (4096, 4096)),
        (1024, 10**6, (65536, 10**6)),
        (1024, resource.RLIM_INFINITY, (65536, resource.RLIM_INFINITY)),
        (10**5, 10**6, None),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, None),
    ],
)
def test_computes_the_soft_limit_of_open_files(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, wanted: tuple[int, int] | None
) -> None:
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _what: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _what, limits: given.append(limits))
    preflight.raise_open_files()
    assert given == ([wanted] if wanted else [])


def test_raises_the_soft_limit_of_open_files() -> None:
    code = "import resource as r; h = r.getrlimit(r.RLIMIT_NOFILE)[1]; r.setrlimit(r.RLIMIT_NOFILE, (64, h));"
    code += (
        "from berth.boot.preflight import raise_open_files; raise_open_files(); print(r.getrlimit(r.RLIMIT_NOFILE)[0])"
    )
    assert int(subprocess.check_output([sys.executable, "-c", code])) > 64


@pytest.mark.parametrize(
    ("inventory", "levels", "words"),
    [
        (GpuInventory(state=DriverState.NO_DRIVER, reason="no driver"), [Level.WARN], "no driver"),
        (GpuInventory(state=DriverState.NO_GPUS), [Level.WARN], "no GPU found"),
        (DRIVEN, [Level.OK], "580.10 (CUDA 13.0); 0: Fake 80GB, 79.0 GiB of 80.0 GiB free"),
        (replace(DRIVEN, reason="GPU 1 is ignored"), [Level.OK, Level.WARN], "GPU 1 is ignored"),
        (replace(DRIVEN, cuda_version="12.8"), [Level.OK, Level.WARN], "runs CUDA 12.8, engines need 13.0"),
        (replace(DRIVEN, cuda_version="", driver_version=""), [Level.OK], "unknown (CUDA unknown)"),
    ],
)
def test_checks_the_driver_against_the_engines_cuda(inventory: GpuInventory, levels: list[Level], words: str) -> None:
    found = preflight.driver(inventory)
    assert [one.level for one in found] == levels
    assert words in found[-1].detail


def test_no_gpu_says_what_to_do() -> None:
    [found] = preflight.driver(
        GpuInventory(state=DriverState.NO_DRIVER, reason="no driver here: start it with --gpus all")
    )
    assert (found.detail, found.remedy[:34]) == ("no driver here", "Start it with --gpus all, or serve")
    [found] = preflight.driver(GpuInventory(state=DriverState.NO_GPUS))
    assert found.remedy.startswith("or serve models on the CPU")


def test_runs_all_checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _what: (1024, 1024))
    settings = Settings(models=(), host="127.0.0.1", port=1, run_dir=str(tmp_path), data_dir=str(tmp_path))
    found = preflight.checks(settings, [replace(REPLICA, gpus=(0, 1))])
    wanted = [What.PORT, What.RUN_DIR, What.DATA_DIR, What.SHM, What.RAM, What.FILES, What.LOCKED]
    assert [one.what for one in found] == wanted


def test_certificate_is_tried_out(tmp_path: Path) -> None:
    assert preflight.tls("", "") == []
    (good,) = preflight.tls(*certificates.make(tmp_path, days=30))
    (near,) = preflight.tls(*certificates.make(tmp_path, days=13))
    (bad,) = preflight.tls(*certificates.make(tmp_path, days=-1))
    assert [finding.level for finding in (good, near, bad)] == [Level.OK, Level.WARN, Level.FAIL]
    assert "localhost, 127.0.0.1" in good.detail
    assert "Renew it" in near.remedy
    assert "certificate has expired" in bad.detail


def test_traces_need_the_exporter(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = Settings(models=(), otel_endpoint="http://c")
    assert preflight.tracer(Settings(models=())) == []
    assert [one.level for one in preflight.tracer(wanted)] == [Level.OK]

    for name in [name for name in sys.modules if name.partition(".")[0] == "opentelemetry"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [])
    (missing,) = preflight.tracer(wanted)
    assert missing.level is Level.FAIL
    assert "berth[tracing]" in missing.remedy

"""entrypoint.sh, with programs in its PATH that say how they were called and play who is there."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from berth.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "entrypoint.sh"
SAY = '#!/bin/sh\necho {name} "$@"\nexit 78\n'
# setpriv as a container without the capabilities has it (FAKE_NO_CAPS), else one that runs what follows "--".
SETPRIV = r"""#!/bin/sh
[ -z "${FAKE_NO_CAPS:-}" ] || exit 127
while [ "$1" != -- ]; do shift; done
shift
case "$1" in
test) [ -n "${FAKE_WRITABLE:-}" ]; exit ;;
true) exit 0 ;;
esac
echo "uid 10001:"
exec "$@"
"""


class Container:
    """What the script finds in a container."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"
        self.data, self.run_dir, self.log = folder / "data", folder / "run/berth", folder / "log"
        self.bin.mkdir()
        self.program("berth", SAY.format(name="berth"))
        self.program("bash", SAY.format(name="bash"))
        self.program("id", '#!/bin/sh\necho "${FAKE_UID:-10001}"\n')
        self.program("stat", '#!/bin/sh\necho "${FAKE_OWNER:-0}"\n')
        self.program("chown", f'#!/bin/sh\necho "chown $*" >>{self.log}\nexit "${{FAKE_CHOWN:-0}}"\n')
        self.program("setpriv", SETPRIV)

    def program(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def start(self, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        folders = {"BERTH_DATA": str(self.data), "BERTH_RUN_DIR": str(self.run_dir)}
        environ = {"PATH": f"{self.bin}:/usr/bin:/bin", **folders, **variables}
        return subprocess.run([SCRIPT, *arguments], env=environ, capture_output=True, text=True, check=False)

    def chowned(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def container(tmp_path: Path) -> Container:
    return Container(tmp_path)


def test_knows_exactly_the_subcommands() -> None:
    found = re.search(r'^"" \| -\* \| ([a-z |]+)\)$', SCRIPT.read_text(), re.MULTILINE)
    assert found is not None
    known = set(found[1].split(" | "))
    assert known >= {*COMMANDS, "sim"}
    assert known <= {*COMMANDS, "sim", "fetch", "export", "import"}


@pytest.mark.parametrize(
    ("arguments", "called"),
    [([], "berth"), (["--version"], "berth --version"), (["plan", "--json"], "berth plan --json"), (["bash"], "bash")],
)
def test_without_root_it_runs_the_command(container: Container, arguments: list[str], called: str) -> None:
    ended = container.start(*arguments, FAKE_NO_CAPS="1")
    assert (ended.stdout, ended.stderr, ended.returncode) == (f"{called}\n", "", 78)
    assert container.chowned() == []


@pytest.mark.parametrize("arguments", [[], ["plan"], ["berth", "plan"]])
def test_root_switches_to_the_user_before_berth_starts(container: Container, arguments: list[str]) -> None:
    ended = container.start(*arguments, FAKE_UID="0")
    assert ended.stdout.splitlines()[0] == "uid 10001:"
    assert ended.stdout.splitlines()[1].startswith("berth")
    assert ended.returncode == 78


def test_root_stays_root_for_other_programs(container: Container) -> None:
    assert container.start("bash", FAKE_UID="0").stdout == "bash\n"


def test_root_changes_the_owner_of_its_folders_but_not_their_contents(container: Container) -> None:
    container.start(FAKE_UID="0")
    assert container.chowned() == [f"chown 10001:10001 {folder}" for folder in (container.data, container.run_dir)]
    assert container.data.is_dir()
    assert container.run_dir.is_dir()


@pytest.mark.parametrize("variables", [{"FAKE_WRITABLE": "1"}, {"FAKE_OWNER": "1000"}])
def test_keeps_the_owner_of_writable_or_foreign_folders(container: Container, variables: dict[str, str]) -> None:
    ended = container.start(FAKE_UID="0", **variables)
    assert container.chowned() == []
    assert ("cannot write" in ended.stderr) == ("FAKE_OWNER" in variables)


def test_start_continues_if_an_owner_cannot_be_changed(container: Container) -> None:
    ended = container.start(FAKE_UID="0", FAKE_CHOWN="1")
    assert f"cannot write {container.data}, and it could not be given to it" in ended.stderr
    assert "berth" in ended.stdout


def test_root_without_capabilities_warns_and_continues(container: Container) -> None:
    ended = container.start("doctor", FAKE_UID="0", FAKE_NO_CAPS="1")
    assert ended.stdout == "berth doctor\n"
    assert "without the capabilities SETUID, SETGID and SETPCAP" in ended.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="becoming another user takes root")
def test_real_setpriv_drops_all_of_root(container: Container) -> None:
    for name in ("setpriv", "id", "stat", "chown"):
        (container.bin / name).unlink()
    words = "^Uid|^Gid|^Groups|^Cap(Prm|Eff|Bnd)|^NoNewPrivs"
    container.program("berth", f"#!/bin/sh\ngrep -E '{words}' /proc/self/status | tr -s '\\t ' ' '\n")
    container.bin.parent.chmod(0o755)
    ended = container.start()
    assert ended.stdout.splitlines() == [
        "Uid: 10001 10001 10001 10001",
        "Gid: 10001 10001 10001 10001",
        "Groups: ",
        "CapPrm: 0000000000000000",
        "CapEff: 0000000000000000",
        "CapBnd: 0000000000000000",
        "NoNewPrivs: 1",
    ]
    assert (container.data.stat().st_uid, container.run_dir.stat().st_uid) == (10001, 10001)

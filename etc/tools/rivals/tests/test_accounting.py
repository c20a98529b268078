import os
import subprocess
import sys
from pathlib import Path

from etc.tools.rivals import accounting
from etc.tools.rivals.accounting import Stat

BURN = "import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass"


def test_a_stat_is_read_whatever_the_name_of_the_process_is() -> None:
    fields = ["S", "7", *["0"] * 9, "10", "20", "3", "4", *["0"] * 5]
    assert Stat.parse(f"42 (a) b (c d) {' '.join(fields)}\n") == Stat(pid=42, parent=7, cpu_ticks=37)


def test_a_tree_has_all_descendants_and_nobody_else() -> None:
    known = {pid: Stat(pid=pid, parent=parent, cpu_ticks=0) for pid, parent in [(1, 0), (5, 1), (6, 5), (7, 6), (8, 1)]}
    assert accounting.tree([5], known) == {5, 6, 7}
    assert accounting.tree([5, 6, 99], known) == {5, 6, 7}


def test_the_time_of_a_child_that_has_ended_still_counts() -> None:
    pipe = subprocess.PIPE
    program = ["sh", "-c", '"$0" -c "$1"; echo over; read line', sys.executable, BURN]
    with subprocess.Popen(program, stdin=pipe, stdout=pipe, text=True) as shell:
        assert shell.stdout is not None
        shell.stdout.readline()
        used_s = accounting.cpu_s([shell.pid])
        assert len(accounting.tree([shell.pid], accounting.stats())) == 1
        shell.communicate("\n")
    assert used_s >= 0.25


def test_the_machine_has_used_more_than_one_process() -> None:
    assert accounting.machine_cpu_s() >= accounting.cpu_s([os.getpid()]) > 0


def test_the_memory_of_a_process_is_in_bytes(tmp_path: Path) -> None:
    (tmp_path / "42").mkdir()
    (tmp_path / "42/smaps_rollup").write_text("0-1 ---p 0 00:00 0 [rollup]\nRss:  9 kB\nPss:  7 kB\nPss_Dirty: 1 kB\n")
    assert accounting.pss_bytes(42, tmp_path) == 7 * 1024
    assert accounting.tree_pss_bytes([os.getpid()])[0] > 1_000_000
    assert accounting.largest([os.getpid()]) > 0


def test_open_files_are_counted(tmp_path: Path) -> None:
    before = accounting.open_files(os.getpid())
    with (tmp_path / "file").open("w"):
        assert accounting.open_files(os.getpid()) == before + 1

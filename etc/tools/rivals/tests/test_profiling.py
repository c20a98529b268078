import pytest

from etc.tools.rivals.profiling import Share, calls, libraries, shares

PERF = """\
# Overhead  Shared Object
# ........  ........................................
#
    48.33%  libpython3.11.so.1.0
    30.37%  [kernel.kallsyms]
     0.16%  libcrypto.so.3

# (Tip: 100% of nothing)
"""

STRACE = """\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 46.89    0.511196          94      5407       894 futex
  6.81    0.074271           5     12718           write
------ ----------- ----------- --------- --------- ----------------
100.00    1.090107          18     18125       896 total
"""


def test_a_function_that_calls_itself_is_counted_once_in_a_stack() -> None:
    assert shares(["main;send 1", "main;read;read 3"]) == [
        Share(function="read", own=0.75, total=0.75),
        Share(function="send", own=0.25, total=0.25),
        Share(function="main", own=0.0, total=1.0),
    ]


def test_names_may_hold_blanks() -> None:
    assert shares(["a (x.py:1);b c (y.py:2) 4"])[0].function == "b c (y.py:2)"


def test_the_libraries_of_perf_are_read() -> None:
    found = libraries(PERF)
    assert found == {
        "libpython3.11.so.1.0": pytest.approx(0.4833),
        "[kernel.kallsyms]": pytest.approx(0.3037),
        "libcrypto.so.3": pytest.approx(0.0016),
    }


def test_the_calls_of_strace_are_read_with_and_without_errors() -> None:
    assert calls(STRACE) == {"futex": 5407, "write": 12718}

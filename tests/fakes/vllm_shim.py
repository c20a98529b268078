"""Replaces `vllm`: `python vllm_shim.py SOCKET serve MODEL ...` requests a server from vllm_fork_server.py.

It lives as long as the server, forwards signals and exits with its code. Standard library only.
"""

import json
import os
import signal
import socket
import sys
from types import FrameType


def main() -> int:
    with socket.socket(socket.AF_UNIX) as fork_server:
        fork_server.connect(sys.argv[1])
        request = {"arguments": sys.argv[2:], "environment": dict(os.environ), "folder": os.getcwd()}  # noqa: PTH109 - text, for JSON
        socket.send_fds(fork_server, [json.dumps(request).encode() + b"\n"], [1, 2])
        with fork_server.makefile() as answers:
            pid = int(json.loads(answers.readline())["pid"])
            pass_signals_to(pid)
            end = answers.readline()  # "" when the fork_server died, and its servers with it
    code = int(json.loads(end)["code"]) if end else 1
    if code < 0:  # killed by a signal: so are we
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


def pass_signals_to(pid: int) -> None:
    def forward(number: int, _: FrameType | None) -> None:
        os.kill(pid, number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, forward)


if __name__ == "__main__":
    sys.exit(main())

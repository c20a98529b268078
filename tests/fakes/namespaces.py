"""Two boxes on one machine: two network namespaces with a link that a test may cut. Needs root, and `ip`.

A process out here reaches box 0 at 10.231.0.2 and box 1 at 10.231.1.2; each other they have as 10.77.0.1 and 10.77.0.2.
"""

import os
import shutil
import subprocess
from types import TracebackType
from typing import Self


def obstacle() -> str:
    """Why there can be none here; "" where there can."""
    if os.geteuid() != 0:
        return "only root makes network namespaces"
    return "" if shutil.which("ip") else "there is no command `ip`: apt-get install iproute2"


class TwoBoxes:
    """Used as a context manager. The link between the boxes is called `fabric` in both. `pair`: which of several."""

    def __init__(self, pair: int = 0) -> None:
        self.names = tuple(f"berth-{os.getpid()}-{pair}-{box}" for box in (0, 1))
        self.addresses = ("10.77.0.1", "10.77.0.2")
        self.clients = tuple(f"10.231.{2 * pair + box}.2" for box in (0, 1))  # where clients out here reach the boxes

        self.outside = tuple(f"b{one}" for one in self.clients)  # names of interfaces are short

    def __enter__(self) -> Self:
        try:
            for name in self.names:
                ip("netns", "add", name)
                self.inside(name, "ip", "link", "set", "lo", "up")
            peer = ("peer", "name", "fabric", "netns", self.names[1])
            ip("link", "add", "fabric", "netns", self.names[0], "type", "veth", *peer)
            for box, name in enumerate(self.names):
                outside = self.outside[box]
                ip("link", "add", outside, "type", "veth", "peer", "name", "clients", "netns", name)
                ip("addr", "add", f"{self.clients[box][:-1]}1/30", "dev", outside)
                ip("link", "set", outside, "up")
                self.add_address(box, "clients", f"{self.clients[box]}/30")
                self.add_address(box, "fabric", f"{self.addresses[box]}/24")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """A namespace ends with its last socket; its links may be needed again before."""
        commands = [("link", "del", one) for one in self.outside] + [("netns", "del", one) for one in self.names]
        for words in commands:
            subprocess.run(["ip", *words], check=False, capture_output=True)

    def add_address(self, box: int, interface: str, address: str) -> None:
        self.inside(self.names[box], "ip", "addr", "add", address, "dev", interface)
        self.inside(self.names[box], "ip", "link", "set", interface, "up")

    def cut(self) -> None:
        """The fabric is down, at once for both boxes; clients still reach both."""
        self.inside(self.names[1], "ip", "link", "set", "fabric", "down")

    def mend(self) -> None:
        self.inside(self.names[1], "ip", "link", "set", "fabric", "up")

    def command(self, box: int, *command: str) -> list[str]:
        """That runs there, with a /dev/shm of its own: by that engines find out who is on the same box."""
        own = 'mount -t tmpfs none /dev/shm && exec "$@"'
        return ["ip", "netns", "exec", self.names[box], "sh", "-c", own, "sh", *command]

    def inside(self, name: str, *command: str) -> str:
        return ip("netns", "exec", name, *command)


def ip(*words: str) -> str:
    found = subprocess.run(["ip", *words], check=False, capture_output=True, text=True)
    assert found.returncode == 0, f"ip {' '.join(words)}: {found.stderr}"
    return found.stdout

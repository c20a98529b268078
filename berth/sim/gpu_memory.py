"""The GPU memory that a simulated engine holds, written down for a simulated NVIDIA driver: one file per process in a
folder, "PID-TICKS" for one that began TICKS after the boot, since others get its number later. It has a line
"GPU PID MIB RELEASE_MS KEPT_MIB" per GPU. When the process is gone, however that came, the driver
gives the memory back over RELEASE_MS, except for KEPT_MIB.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(slots=True, kw_only=True)
class GpuMemory:
    """Without a folder nothing is written."""

    folder: str = ""
    taken_mib: dict[int, int] = field(default_factory=dict)  # while awake, by GPU index
    release_s: float = 0.0
    kept_mib: int = 0

    def hold(self, *, at_most_mib: int | None = None) -> None:
        """All, or asleep only so much of each GPU. OSError if it cannot be written."""
        if not self.folder:
            return
        pid = os.getpid()
        stat = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace")
        path = Path(self.folder, f"{pid}-{stat.rpartition(')')[2].split()[19]}")
        half = path.with_suffix(".half")
        held = {gpu: mib if at_most_mib is None else min(mib, at_most_mib) for gpu, mib in self.taken_mib.items()}
        lines = [f"{gpu} {pid} {mib} {int(self.release_s * 1000)} {self.kept_mib}\n" for gpu, mib in held.items()]
        half.write_text("".join(lines), encoding="ascii")
        half.replace(path)

"""The base of an NVML whose driver has only the functions that a test gives it."""

from collections.abc import Callable
from typing import NoReturn


class SilentNvml:
    NVMLError: type[Exception] = RuntimeError

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        if not name.startswith("nvml"):
            raise AttributeError(name)

        def absent(*_arguments: object) -> NoReturn:
            raise self.NVMLError(f"Function Not Found: {name}")

        return absent

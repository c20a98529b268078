"""The one table of environment variables: parsing, defaults, allowed values and documentation."""

from dataclasses import dataclass, field
from typing import Literal

from berth.boot.specs import ModelSpec
from berth.plan import EngineName


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The parsed environment. Sizes in bytes, times in seconds, paths absolute."""

    models: tuple[ModelSpec, ...]
    host: str = "0.0.0.0"
    port: int = 8000
    workers: int = 1
    data_dir: str = "/data"
    run_dir: str = "/run/berth"
    engine_home: str = "/opt/engines"  # <engine_home>/<engine>/bin/python
    engines: tuple[EngineName, ...] = (EngineName.VLLM, EngineName.SGLANG, EngineName.TRTLLM)
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    admin_key: str = field(default="", repr=False)
    hf_token: str = field(default="", repr=False)
    offline: bool = False
    gpu_memory_fraction: float = 0.9  # of each GPU's total memory that Berth may plan with
    log_format: Literal["text", "json"] = "text"
    log_level: str = "info"
    max_body_bytes: int = 256 * 2**20
    first_token_timeout_s: float = 300.0
    token_timeout_s: float = 60.0
    queue_timeout_s: float = 60.0
    client_stall_timeout_s: float = 60.0
    drain_timeout_s: float = 10.0
    start_timeout_s: float = 1800.0
    restart_limit: int = 5  # failures of a replica within restart_window_s that are for good
    restart_window_s: float = 900.0

"""Where a running Berth has its files, as the environment says."""

from collections.abc import Mapping


def run_dir_of(environ: Mapping[str, str]) -> str:
    """ConfigError for a BERTH_RUN_DIR that cannot be one."""
    from berth.boot.config import checkout, settings

    return settings.run_dir(environ, defaults=checkout.defaults(environ))

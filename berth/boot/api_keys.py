"""Reads the files of the API keys again, for control: in a process of its own, `berth key read`.

Control itself reads no configuration (see berth.boot), and a file that is wrong must not harm it.
"""

from dataclasses import replace

import msgspec

from berth.boot.config.api_keys import VARIABLE, keys_in_files, parse_api_keys
from berth.boot.config.model_rules import Problems
from berth.boot.config.parsers import read_value, unquoted
from berth.boot.config.settings import unknown_models
from berth.errors import ConfigError, Problem
from berth.plan import ApiKey, Keys, Plan, read_keys, read_plan
from berth.plan.keys import digest


def read_again(run_dir: str) -> str:
    """The keys as JSON, for `keys_of`. ConfigError with all that is wrong with the files."""
    return msgspec.json.encode(renewed_keys(read_plan(run_dir), read_keys(run_dir))).decode()


def renewed_keys(plan: Plan, keys: Keys) -> tuple[ApiKey, ...]:
    problems = Problems(VARIABLE)
    if plan.keys_file:
        try:
            found = parse_api_keys(unquoted(read_value(plan.keys_file)))
        except ConfigError:
            raise
        except ValueError as exc:
            problem = Problem(
                variable=f"{VARIABLE}_FILE",
                value=plan.keys_file,
                reason=str(exc),
                allowed="a readable text file with keys",
                example=f"{VARIABLE}_FILE=/run/secrets/api_keys",
            )
            raise ConfigError([problem]) from exc
        problems.found += unknown_models(found, [name for one in plan.routes for name in (one.name, *one.aliases)])
    else:
        renewed = []
        for key in keys.api_keys:
            from_files = tuple(digest(text) for text in keys_in_files(problems, key.name, key.files))
            given = [one for one in key.digests if one not in key.from_files]
            renewed.append(replace(key, digests=tuple(dict.fromkeys((*given, *from_files))), from_files=from_files))
        found = tuple(renewed)
    if any(keys.admin_key_digest in key.digests for key in found):
        reason = "the admin key is among them: every client could stop the models"
        problems.add("", "***", reason, allowed="other keys than BERTH_ADMIN_KEY", example="another key")
    if problems.found:
        raise ConfigError(problems.found)
    return found

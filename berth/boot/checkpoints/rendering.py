"""How a checkpoint's chat template writes a tool call: the template, rendered with a made-up conversation.

A template is somebody else's program. It runs in Jinja's sandbox, in a process of its own with limits on time, memory
and files, and without Berth's environment. Public templates differ in what they accept, so several forms of the same
conversation are tried. This module is that process, too: `python -I -m berth.boot.checkpoints.rendering`.
"""

import json
import resource
import subprocess
import sys
from functools import lru_cache
from typing import Any

from berth.engines.base import CALL_NAME

QUESTION, ANSWER = "What is the weather in the capital?", "Sunny, 31 degrees, says the station."
LONGEST_TEMPLATE = 1 << 20  # characters
LONGEST_CALL = 4096
TIMEOUT_S = 5.0
CPU_S, MEMORY_BYTES = 3, 1 << 30


@lru_cache(maxsize=64)
def rendered_call(template: str) -> str:
    """The text between the user's question and the tool's answer; empty where the template cannot be rendered, or
    leaves calls out.
    """
    if not template or len(template) > LONGEST_TEMPLATE:
        return ""
    command = [sys.executable, "-I", "-m", __name__]
    try:
        done = subprocess.run(
            command, input=template.encode(), capture_output=True, timeout=TIMEOUT_S, env={}, check=False
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeEncodeError):
        return ""
    return done.stdout[: 4 * LONGEST_CALL].decode(errors="ignore")[:LONGEST_CALL] if done.returncode == 0 else ""


def render(template: str) -> str:
    """The same, in this process."""
    # Here because only this process needs it: it is a third of the time that Berth's commands take to start.
    from jinja2.sandbox import SandboxedEnvironment  # noqa: PLC0415

    environment = SandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.filters["tojson"] = to_json
    environment.globals |= {"raise_exception": refuse, "strftime_now": lambda _form: "2026-01-01"}
    for word in ("generation", "endgeneration"):  # transformers' own tag marks what to train on
        for dash in ("{%- ", "{%-", "{% ", "{%"):
            for end in (" -%}", "-%}", " %}", "%}"):
                template = template.replace(f"{dash}{word}{end}", "")
    compiled = environment.from_string(template)
    for messages in conversations():
        try:
            text = compiled.render(messages=messages, tools=[TOOL], **VALUES)
        except Exception:  # noqa: BLE001, S112 - whatever a template raises, the next form may suit it
            continue
        found = text.rpartition(QUESTION)[2].partition(ANSWER)[0]
        if CALL_NAME in found:
            return found
    return ""


VALUES = {"add_generation_prompt": False, "date_string": "1 Jan 2026", "bos_token": "<s>", "eos_token": "</s>"}
ARGUMENTS = {"city": "Paris", "days": 3}
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city"],
}
FUNCTION = {"name": CALL_NAME, "description": "Weather of a city.", "parameters": PARAMETERS}
TOOL = {"type": "function", "function": FUNCTION}


def conversations() -> list[list[dict[str, Any]]]:
    """A question, a call and its answer: with arguments as an object or as text, without and with an empty content."""
    forms: list[list[dict[str, Any]]] = []
    for arguments in (ARGUMENTS, json.dumps(ARGUMENTS)):
        for content in ("", None):
            call = {"id": "call00001", "type": "function", "function": {"name": CALL_NAME, "arguments": arguments}}
            forms.append(
                [
                    {"role": "user", "content": QUESTION},
                    {"role": "assistant", "content": content, "tool_calls": [call]},
                    {"role": "tool", "tool_call_id": "call00001", "name": CALL_NAME, "content": ANSWER},
                ]
            )
    return forms


def to_json(value: Any, indent: int | None = None, **_: Any) -> str:
    """The filter `tojson` as transformers has it: Unicode as it is, and no HTML escapes."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def refuse(message: str) -> None:
    """The function `raise_exception` of templates."""
    raise ValueError(message)


def main() -> int:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    sys.stdout.write(render(sys.stdin.read()))
    return 0


if __name__ == "__main__":
    sys.exit(main())

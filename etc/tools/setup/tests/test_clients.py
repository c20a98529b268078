"""The page that lists the clients that were tried names all that are installed for it."""

import re

from tests.e2e.appliance import ROOT

NOT_CLIENTS = {
    "mcp",
    "pytest",
    "pytest-timeout",
    "zod",
}  # what the tests themselves need, and what LiteLLM forgets to ask for


def test_every_installed_client_is_in_the_table() -> None:
    script = (ROOT / "etc/tools/setup/clients.sh").read_text()
    lists = re.findall(r"^\w+=\(([a-z@].*)\)$", script, re.MULTILINE)
    installed = {name.strip('"').partition("<")[0] for line in lists for name in line.split()}
    page = (ROOT / "docs/clients.md").read_text().partition("## Tested releases")[2]
    shown = {word for code in re.findall(r"`([^`]+)`", page) for word in code.split()}
    assert len(lists) == 4
    assert installed - NOT_CLIENTS <= shown

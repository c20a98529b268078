"""The page with the real vLLM, started by `make page-test-vllm`: what it does takes as long as it takes there."""

import re

import pytest

from tests.page.conftest import Page
from tests.page.test_browser import confirm, row, show

START_MS = 900_000


@pytest.fixture(autouse=True)
def _vllm(admin: Page) -> None:
    if row(admin, "tiny-vllm").count() == 0:
        pytest.skip("the page is tried with vLLM by: make page-test-vllm")


def test_vllm_answers_sleeps_wakes_and_is_loaded_again(admin: Page) -> None:
    admin.set_default_timeout(START_MS)
    replica = row(admin, "tiny-vllm")
    replica.get_by_text("ready").wait_for()
    for action, status in (("Sleep", "asleep"), ("Wake", "ready"), ("Unload", "unloaded"), ("Load", "ready")):
        admin.get_by_role("button", name=f"{action} tiny", exact=True).click()
        admin.get_by_role("dialog").get_by_text(f"→ {status}").wait_for()
        confirm(admin, action)
        if action == "Load":
            replica.get_by_text(re.compile("loading|waiting")).first.wait_for()
        replica.get_by_text(re.compile(f"[●○] {status}")).wait_for()

    show(admin, "playground")
    admin.get_by_label("Message", exact=True).fill("Hello")
    admin.get_by_role("button", name="Send").click()
    admin.get_by_role("region", name="Answers of tiny").get_by_text("tokens/s").wait_for()
    show(admin, "connect")
    admin.get_by_role("button", name="Test from here").click()
    admin.get_by_role("status").locator(".good").wait_for()
    show(admin, "requests")
    admin.get_by_role("region", name="Requests that are over").get_by_role("cell", name="tiny-vllm").first.wait_for()
    show(admin, "logs")
    admin.get_by_role("log").get_by_text(re.compile("vLLM|vllm")).first.wait_for()

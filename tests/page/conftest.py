"""A browser, and pages in it that may not complain: about their policy, on their console, or by an exception."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.page.scene import ADMIN_KEY, CHROMIUM, Scene

Page = Any  # of Playwright, which is in .browser alone
Opened = Callable[..., Page]
LISTENER = "addEventListener('securitypolicyviolation', (e) => console.error('CSP', e.violatedDirective, e.blockedURI))"


@pytest.fixture(scope="session")
def scene() -> Scene:
    found = Scene.from_environment()
    if found is None:
        pytest.skip("the page is tried in a browser by: make page-test")
    return found


@pytest.fixture(scope="session")
def browser(scene: Scene) -> Iterator[Any]:
    assert scene.url
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - it is in .browser alone

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def axe() -> str:
    import axe_playwright_python  # noqa: PLC0415 - it is in .browser alone

    return Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text(encoding="utf-8")


@contextmanager
def context_of(browser: Any, complaints: list[str], **options: Any) -> Iterator[Any]:
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
    context.set_default_timeout(60_000)
    context.add_init_script(LISTENER)
    context.on("console", lambda one: complaints.append(one.text) if one.type == "error" else None)
    context.on("weberror", lambda one: complaints.append(str(one.error)))
    yield context
    context.close()


@pytest.fixture
def complaints() -> Iterator[list[str]]:
    """What pages have complained about; a test that expects some removes them."""
    found: list[str] = []
    yield found
    assert found == []


@pytest.fixture
def context(browser: Any, complaints: list[str]) -> Iterator[Any]:
    with context_of(browser, complaints) as context:
        yield context


def sign_in(page: Page, key: str = ADMIN_KEY) -> None:
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in", exact=True).click()


@pytest.fixture
def admin(context: Any, scene: Scene) -> Page:
    """The overview of an admin, with live data."""
    page = context.new_page()
    page.goto(f"{scene.url}/ui/")
    sign_in(page)
    page.get_by_text("● live").wait_for()
    return page


@pytest.fixture
def kill(scene: Scene) -> Callable[[str], None]:
    """Kills the engine of a replica."""

    def killed(replica: str) -> None:
        replicas = json.loads(Path(scene.state_file).read_bytes())["replicas"]
        os.kill(next(one["pid"] for one in replicas if one["name"] == replica), signal.SIGKILL)

    return killed

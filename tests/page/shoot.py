"""Takes a picture of each view in light and dark, with the colours that it needs; runs in .browser."""

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.page.scene import ADMIN_KEY, CHROMIUM, VIEWS, Scene

WIDTH, TALLEST = 1040, 900
TALL = {"overview": 1400, "system": 1500}
COLOURS = 64
MOST_BYTES = 60 << 10
Page = Any


def playground(page: Page) -> None:
    page.get_by_role("combobox", name="Model").select_option("chat")
    page.get_by_label("Compare with").select_option("coder")
    page.get_by_label("Message", exact=True).fill("What leaves the harbour tonight?")
    page.get_by_role("button", name="Send").click()
    for model in ("chat", "coder"):
        page.get_by_role("region", name=f"Answers of {model}").get_by_text("tokens/s").wait_for(timeout=60_000)
    page.locator("[aria-busy=true]").first.wait_for(state="detached", timeout=60_000)


def connect(page: Page) -> None:
    page.get_by_role("button", name="Claude Code", exact=True).click()
    page.get_by_role("button", name="Test from here").click()
    page.get_by_role("status").locator(".good").wait_for(timeout=60_000)


def requests(page: Page) -> None:
    page.get_by_role("region", name="Requests that are over").get_by_role("button").first.click()


def system(page: Page) -> None:
    page.get_by_role("region", name="Migration of chat").get_by_text("passed").first.wait_for(timeout=60_000)
    page.get_by_text("chosen: chat-vllm-2").wait_for()


def logs(page: Page) -> None:
    page.get_by_role("log").get_by_text("startup complete").wait_for()


def usage(page: Page) -> None:
    page.get_by_role("region", name="Changes").wait_for()
    page.get_by_role("region", name="Usage by key and model").wait_for()


PREPARE: dict[str, Callable[[Page], None]] = {
    "playground": playground, "connect": connect, "requests": requests, "system": system, "logs": logs,
    "usage": usage,
}  # fmt: skip


def shoot(page: Page, file: Path, tallest: int) -> None:
    from PIL import Image  # noqa: PLC0415 - it is in .browser alone

    height = min(page.evaluate("document.querySelector('main').getBoundingClientRect().bottom + scrollY"), tallest)
    page.set_viewport_size({"width": WIDTH, "height": int(height)})
    page.wait_for_timeout(1500)  # the next data are drawn
    page.evaluate("scrollTo(0, 0)")  # new rows above the one that is open move the page
    taken = Image.open(io.BytesIO(page.screenshot()))
    colours = taken.convert("RGB").quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    colours.save(file, optimize=True)
    size = file.stat().st_size
    sys.stdout.write(f"{file.name}: {taken.width} x {taken.height}, {size >> 10} KB\n")
    if size > MOST_BYTES:
        sys.exit(f"{file.name} has {size} bytes, more than {MOST_BYTES}")


def main(folder: Path) -> None:
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - it is in .browser alone

    scene = Scene.from_environment()
    if scene is None:
        sys.exit("make screenshots starts this")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            context = browser.new_context(color_scheme=scheme, viewport={"width": WIDTH, "height": 800})
            page = context.new_page()
            page.goto(f"{scene.url}/ui/")
            page.get_by_label("API key").fill(ADMIN_KEY)
            page.get_by_role("button", name="Sign in", exact=True).click()
            page.get_by_text("● live").wait_for(timeout=60_000)
            for view in VIEWS:
                page.set_viewport_size({"width": WIDTH, "height": 800})
                page.evaluate(f"location.hash = '#/{view}'")
                page.get_by_role("heading", level=1, name=view, exact=False).wait_for(state="attached")
                page.get_by_text("Waiting for data").wait_for(state="detached")
                PREPARE.get(view, lambda _page: None)(page)
                shoot(page, folder / f"{view}-{scheme}.png", TALL.get(view, TALLEST))
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

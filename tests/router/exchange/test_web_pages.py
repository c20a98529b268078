"""Which requests of browsers are refused, and which pages can read responses."""

import pytest

from berth.errors import ForbiddenError
from berth.router.exchange.web_pages import WebPages, is_local_name

PAGES = WebPages(
    ("local", "https://chat.example.org", "https://*.example.net:8443", "myapp://*"), names=("berth.example.com",)
)


def refused(pages: WebPages = PAGES, **headers: str) -> str:
    """The code of the error; "" for none."""
    try:
        pages.check({name.replace("_", "-").encode(): value.encode() for name, value in headers.items()})
    except ForbiddenError as error:
        return error.code or ""
    return ""


@pytest.mark.parametrize(
    "host",
    [
        *(
            "",
            "localhost",
            "localhost:8000",
            "LOCALHOST:8000",
            "berth:8000",
            "127.0.0.1:8000",
            "10.1.2.3",
            "203.0.113.9",
        ),
        *(
            "[::1]:8000",
            "[fd00::1]",
            "127.1:8000",
            "box.local",
            "gpu7.lan:80",
            "berth.default.svc.cluster.local",
            "a.svc",
        ),
        *("host.docker.internal:8000", "app.localhost", "box.home.arpa", "box.local."),
        *("berth.example.com:8000", "chat.example.org", "any.example.net:8443"),  # named by the operator
    ],
)
def test_addresses_and_local_names_are_allowed(host: str) -> None:
    assert refused(host=host) == ""


@pytest.mark.parametrize(
    "host",
    [
        *(
            "evil.example",
            "evil.example:8000",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "x.nip.io",
            "a.local.com",
        ),
        *("10.1.2.3.evil", "example.org", "chat.example.org.evil.example", "xlocalhost.io"),
    ],
)
def test_public_names_are_refused(host: str) -> None:
    assert refused(host=host) == ("host_not_allowed")


def test_a_name_is_judged_again_each_time() -> None:
    for _ in range(3):
        assert refused(host="evil.example") == "host_not_allowed"


@pytest.mark.parametrize(
    "origin",
    [
        *(
            "http://localhost",
            "http://localhost:3000",
            "https://localhost:3000",
            "http://127.0.0.1:5173",
            "http://[::1]:1",
        ),
        *(
            "chrome-extension://abcdef",
            "moz-extension://1-2",
            "vscode-webview://x",
            "app://obsidian.md",
            "tauri://localhost",
        ),
        *("https://chat.example.org", "https://a.b.example.net:8443", "myapp://anything"),
        "http://10.0.0.5:8000",  # Berth's own page
    ],
)
def test_pages_that_may_use_it(origin: str) -> None:
    assert refused(host="10.0.0.5:8000", origin=origin) == ""


@pytest.mark.parametrize(
    "origin",
    [
        *(
            "https://evil.example",
            "null",
            "",
            "http://10.0.0.5",
            "http://10.0.0.5:8001",
            "http://localhost.evil.example",
        ),
        *(
            "http://localhost:3000.evil.example",
            "https://chat.example.org:444",
            "http://chat.example.org",
            "https://example.net",
        ),
        *("https://chat.example.org.evil.example", "http://127.0.0.1.evil.example", "evil://localhost"),
    ],
)
def test_pages_that_may_not(origin: str) -> None:
    assert refused(host="10.0.0.5:8000", origin=origin) == "origin_not_allowed"


def test_without_an_origin_a_foreign_page_may_only_link() -> None:
    assert refused(host="localhost", sec_fetch_site="cross-site", sec_fetch_mode="no-cors") == "origin_not_allowed"
    assert refused(host="localhost", sec_fetch_site="cross-site", sec_fetch_mode="navigate") == ""
    assert refused(host="localhost", sec_fetch_site="same-origin", sec_fetch_mode="cors") == ""
    assert refused(host="localhost", sec_fetch_site="none", sec_fetch_mode="navigate") == ""


def test_an_asterisk_allows_all_pages_and_names() -> None:
    assert refused(WebPages(("*",)), host="evil.example", origin="https://other.example") == ""


def test_local_pages_can_be_excluded() -> None:
    assert refused(WebPages(()), host="10.0.0.5", origin="http://localhost:3000") == "origin_not_allowed"
    assert refused(WebPages(()), host="10.0.0.5:8000", origin="http://10.0.0.5:8000") == ""


def test_null_can_be_allowed() -> None:
    assert refused(WebPages(("null",)), host="localhost", origin="null") == ""


def test_a_stranger_fills_no_memory() -> None:
    pages = WebPages(())
    for number in range(1000):
        assert not pages.allows(b"https://evil-%d.example" % number)
        assert refused(pages, host=f"10.0.0.1:{number}") == ""
    assert len(pages.hosts) <= 64


@pytest.mark.parametrize(("name", "local"), [("a.b", False), ("a.b.1", True), ("ai", True), ("co.uk", False)])
def test_local_names(name: str, local: bool) -> None:
    assert is_local_name(name) is local

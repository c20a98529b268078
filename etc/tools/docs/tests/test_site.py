"""The links of the documentation site."""

import pytest

from etc.tools.docs.site import PAGES, ROOT, with_links

REPOSITORY = "https://example.com/owner/berth/"


@pytest.mark.parametrize(
    ("folder", "link", "expected"),
    [
        ("", "[Models](docs/models.md)", "[Models](models.md)"),
        ("", "[codes](docs/troubleshooting.md#exit-codes)", "[codes](troubleshooting.md#exit-codes)"),
        ("", "[how](CONTRIBUTING.md)", "[how](contributing.md)"),
        ("docs", "[Models](models.md#yaml)", "[Models](models.md#yaml)"),
        ("docs", "[Berth](../README.md)", "[Berth](index.md)"),
        ("docs", "[file](../compose.yaml)", "[file](https://example.com/owner/berth/blob/main/compose.yaml)"),
        ("docs", "[below](#yaml)", "[below](#yaml)"),
        ("docs", "[there](https://example.com/x)", "[there](https://example.com/x)"),
    ],
)
def test_a_link_leads_to_the_site_or_to_the_repository(folder: str, link: str, expected: str) -> None:
    assert with_links(f"See {link}.", ROOT / folder, REPOSITORY) == f"See {expected}."


def test_without_a_repository_a_file_is_only_named() -> None:
    assert with_links("See [compose.yaml](../compose.yaml).", ROOT / "docs", "") == "See compose.yaml."


def test_every_page_of_the_top_level_exists() -> None:
    assert all((ROOT / name).is_file() for name in PAGES)

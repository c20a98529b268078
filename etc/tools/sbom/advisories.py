"""Known vulnerabilities of a bill of materials: `python -m etc.tools.sbom.advisories SBOM.json REPORT.json`.

PyPI tells the advisories of every release. Some mirrors have the page of a package and not those of its releases: then
the package's page does, if ours is the newest release. A package that cannot be looked up counts as a finding.
"""

import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PYPI = "https://pypi.org/pypi"
Fetch = Callable[[str], Mapping[str, Any] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`advisories` is None where nobody could be asked."""

    name: str
    version: str
    advisories: tuple[str, ...] | None


def packages(sbom: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Those of the index; ourselves are none of them."""
    return [
        (part["name"], part["version"]) for part in sbom["components"] if part.get("purl", "").startswith("pkg:pypi/")
    ]


def examine(name: str, version: str, fetch: Fetch) -> Verdict:
    page = fetch(f"{name}/{version}/json")
    if page is None:
        newest = fetch(f"{name}/json")
        page = newest if newest and newest["info"]["version"] == version else None
    known = None if page is None else tuple(sorted(_names(page)))
    return Verdict(name=name, version=version, advisories=known)


def _names(page: Mapping[str, Any]) -> set[str]:
    return {found["id"] for found in page["vulnerabilities"] if not found.get("withdrawn")}


def fetch_page(path: str) -> Mapping[str, Any] | None:
    url = f"{os.environ.get('PYPI_JSON_URL', PYPI)}/{path}"
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310 - https, or what the user names
            page: Mapping[str, Any] = json.load(answer)
    except (urllib.error.URLError, ValueError):
        return None
    return page


def main(sbom: Path, report: Path, fetch: Fetch = fetch_page) -> int:
    verdicts = [examine(name, version, fetch) for name, version in packages(json.loads(sbom.read_text()))]
    report.write_text(json.dumps([asdict(verdict) for verdict in verdicts], indent=1) + "\n")
    for verdict in verdicts:
        if verdict.advisories is None:
            print(f"{verdict.name} {verdict.version}: could not be looked up", file=sys.stderr)
        elif verdict.advisories:
            print(f"{verdict.name} {verdict.version}: {', '.join(verdict.advisories)}", file=sys.stderr)
    clean = sum(verdict.advisories == () for verdict in verdicts)
    print(f"{len(verdicts)} packages, {clean} without a known vulnerability: {report}")
    return int(clean < len(verdicts))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))

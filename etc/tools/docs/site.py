"""Hooks for MkDocs (mkdocs.yml names this file).

Files of the top level, such as README.md, become pages of the site. Links are relative, so that they work in a clone; a
link that leaves docs/ leads to the page in the site, or to the file in the repository.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[3]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CODE_OF_CONDUCT.md": "code_of_conduct.md",
    "CHANGELOG.md": "changelog.md",
}
LINK = re.compile(r"\[([^\]]*)\]\((?!https?://|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for name, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 - MkDocs passes all four by name
    folder = ROOT if page.file.src_uri in PAGES.values() else ROOT / "docs"
    return with_links(markdown, folder, config.repo_url or "")


def with_links(markdown: str, folder: Path, repository: str) -> str:
    """The page with its links as the site has them. A link to a file that is not in the site loses its target where no
    repository is known. `folder` is where the page lies in the clone.
    """

    def link(match: re.Match[str]) -> str:
        text, target, place = match.group(1), match.group(2), match.group(3) or ""
        name = (folder / target).resolve().relative_to(ROOT).as_posix()
        if name in PAGES:
            return f"[{text}]({PAGES[name]}{place})"
        if name.startswith("docs/"):
            return f"[{text}]({name.removeprefix('docs/')}{place})"
        return f"[{text}]({repository.rstrip('/')}/blob/main/{name})" if repository else text

    return LINK.sub(link, markdown)

"""What README and the pages in docs/ say about Berth is true."""

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest
import yaml

from berth.boot.catalogue.schema import document as catalogue_document
from berth.boot.config.api_keys import parse_api_keys
from berth.boot.config.engine_yaml import ATTACHED_FIELDS, STARTED_FIELDS
from berth.boot.config.model_yaml import FIELDS as MODEL_FIELDS
from berth.boot.config.models import parse_models
from berth.boot.config.routes import LISTS, SINGLE, parse_routes
from berth.boot.config.variables import VARIABLES
from berth.boot.planner.engine_choice import LEAST_CAPABILITY
from berth.cli.main import COMMANDS
from berth.control.operations import commands
from berth.errors import ApiError
from berth.plan import EngineName
from berth.router.app import DOCUMENTS
from berth.router.server import ollama_pages

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))
FRONT = [README, *(ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md", "CHANGELOG.md"))]
FILES = [*FRONT, *PAGES]
TROUBLE = (ROOT / "docs/troubleshooting.md").read_text()

SUBCOMMANDS = {*COMMANDS, "sim"}
PROGRAMS = {"bash"}  # what the image runs as it stands: `docker run berth bash`
VARIABLE_NAMES = {var.name for var in VARIABLES} | {var.file_name for var in VARIABLES if var.from_file}
OF_ENGINES = ("unrecognized arguments", "CUDA out of memory")  # what engines say, and we only repeat
OF_EVERY_BUILD = {"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"}
OF_DOCKER = ("could not select device driver",)

FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^    .*$", re.MULTILINE)
INLINE = re.compile(r"`([^`\n]+)`")
COMMAND = re.compile(r"(?:^|[\s;/(])berth ([a-z]+)\b", re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def named(path: Path) -> str:
    return path.name


def code(path: Path) -> str:
    """What stands in blocks and between backticks."""
    text = path.read_text()
    blocks = [block for _, block in FENCED.findall(text)]
    rest = FENCED.sub("", text)
    return "\n".join([*blocks, *INDENTED.findall(rest), *INLINE.findall(rest)])


def blocks(path: Path, language: str) -> list[str]:
    return [block for kind, block in FENCED.findall(path.read_text()) if kind == language]


def anchor(heading: str) -> str:
    """As GitHub makes them."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def anchors(path: Path) -> set[str]:
    text = FENCED.sub("", path.read_text())
    return {anchor(heading) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


def table(text: str, *, after: str) -> list[list[str]]:
    """The rows of the first table below a text, without its head."""
    lines = text.split(after, 1)[1].splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("|"))
    end = next((number for number, line in enumerate(lines) if number > start and not line.startswith("|")), len(lines))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start + 2 : end]]


@cache
def texts_of_berth() -> tuple[str, ...]:
    """Every text in Berth's source, what is joined at compile time as one."""
    found = []
    for path in (ROOT / "berth").rglob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text()))
        found += [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return tuple(found)


def exit_codes(folder: Path) -> set[int]:
    """Of the errors that are defined below it."""
    texts = (path.read_text() for path in folder.rglob("*.py"))
    return {
        int(code)
        for text in texts
        for code in re.findall(r"^    exit_code(?:: ClassVar\[int\])? = (\d+)", text, re.MULTILINE)
    }


OF_TESTS = {"BERTH_IMAGE_TEST_CACHE", "BERTH_SKIP_IMAGE_TEST"}  # read by `make image-test`


def statuses(kind: type[ApiError]) -> set[int]:
    return {kind.status}.union(*(statuses(child) for child in kind.__subclasses__()))


@pytest.mark.parametrize("path", FILES, ids=named)
def test_every_variable_that_is_named_exists(path: Path) -> None:
    found = set(re.findall(r"\bBERTH_[A-Z_]*[A-Z]\b", path.read_text())) - OF_TESTS
    assert found <= VARIABLE_NAMES


@pytest.mark.parametrize("path", FILES, ids=named)
def test_every_command_that_is_named_exists(path: Path) -> None:
    found = set(COMMAND.findall(code(path))) - {"berth"}  # `docker exec berth berth status`
    assert found <= SUBCOMMANDS | PROGRAMS


@pytest.mark.parametrize("path", FILES, ids=named)
def test_every_link_leads_somewhere(path: Path) -> None:
    for link in LINK.findall(FENCED.sub("", path.read_text())):
        if link.startswith(("http://", "https://")):
            continue
        target, _, place = link.partition("#")
        file = path.parent / target if target else path
        assert file.exists(), link
        assert not place or place in anchors(file), link


@pytest.mark.parametrize("path", FILES, ids=named)
def test_every_file_of_the_repository_that_is_named_exists(path: Path) -> None:
    for name in re.findall(r"`((?:etc|docs|tests)/[\w./-]+|compose\.yaml|uv\.lock)`", path.read_text()):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_the_shell_examples_can_be_typed(path: Path) -> None:
    for block in blocks(path, "sh"):
        done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), block


@pytest.mark.parametrize("path", FILES, ids=named)
def test_the_models_in_the_examples_are_valid(path: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("k\n")
    for block in blocks(path, "yaml"):
        tree = yaml.safe_load(block)
        assert isinstance(tree, dict)
        if isinstance(tree.get("models"), list):  # a catalogue
            assert catalogue_document(tree).models
            continue
        if "BERTH_API_KEYS" in tree:
            assert parse_api_keys(re.sub(r"(?<=key_file: )[\w/-]+", str(key), tree["BERTH_API_KEYS"]))
        if tree.keys() == {"BERTH_API_KEYS"}:
            continue
        if "BERTH_ROUTES" in tree:
            assert parse_routes(tree["BERTH_ROUTES"])
        text = tree.get("BERTH_MODELS", block)
        assert parse_models(re.sub(r"(?<=api_key_file: )[\w/]+", str(key), text))
    for value in re.findall(r"BERTH_MODELS=(?:\"([^\"]+)\"|([\w=/@,.-]+))", code(path)):
        text = value[0] or value[1]
        assert text == "..." or parse_models(text)


def test_every_field_of_a_rule_is_described() -> None:
    text = (ROOT / "docs/routes.md").read_text()
    conditions, decisions = (table(text, after=f"\n## {name}\n") for name in ("Conditions", "What a rule decides"))
    assert {row[0].strip("`") for row in (*conditions, *decisions)} == {*LISTS, *SINGLE, "header"}


@pytest.mark.parametrize("path", FILES, ids=named)
def test_every_target_of_make_that_is_named_exists(path: Path) -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|[\s`])make ([a-z][\w-]*)", code(path), re.MULTILINE)) <= targets


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_every_argument_of_the_build_that_is_named_exists(path: Path) -> None:
    known = set(re.findall(r"^ARG (\w+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    named_here = set(re.findall(r"--build-arg (\w+)", path.read_text()))
    if path.name == "image.md":
        rows = table(path.read_text(), after="\n## Build arguments\n")
        named_here |= {name for row in rows for name in INLINE.findall(row[0])} - OF_EVERY_BUILD
        assert named_here == known
    passed_on = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["berth"]["build"]["args"]
    assert named_here | set(passed_on) <= known


def test_every_path_of_the_router_that_is_named_exists() -> None:
    text = (ROOT / "docs/container.md").read_text()
    shown = {path for row in table(text, after="\n## Health\n") for path in INLINE.findall(row[0])}
    assert shown == {"/health", "/ready", "/status", "/plan"}
    assert shown <= set(DOCUMENTS)
    documents = {**DOCUMENTS, **ollama_pages.DOCUMENTS}
    open_to_all = {path for path, (_, needs_key) in documents.items() if not needs_key}
    (sentence,) = re.findall(r"([^.]*) never need a key", (ROOT / "docs/configuration.md").read_text())
    assert set(INLINE.findall(sentence)) == open_to_all


def test_the_readme_and_the_site_list_every_page() -> None:
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text().replace("!ENV", ""))["nav"]
    in_site = {page for entry in navigation for pages in entry.values() for page in _pages(pages)}
    names = {path.name for path in PAGES}
    assert {link.removeprefix("docs/") for link in LINK.findall(README.read_text())} >= names
    assert names <= in_site


def _pages(entry: str | list[dict[str, str]]) -> list[str]:
    return [entry] if isinstance(entry, str) else [page for item in entry for page in item.values()]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_list_of_contents_has_every_section(path: Path) -> None:
    listed = re.findall(r"^- \[([^]]+)\]\(#", path.read_text(encoding="utf-8"), re.MULTILINE)
    sections = re.findall(r"^## (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert listed in ([], sections)


def test_make_help_lists_every_target_with_an_explanation() -> None:
    explained = re.findall(r"^(\S+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert re.findall(r"^ +make (\S+)", done.stdout, re.MULTILINE) == explained


def test_the_readme_is_short() -> None:
    assert len(README.read_bytes()) < 9 * 1024


@pytest.mark.parametrize("path", FILES, ids=named)
def test_the_python_compiles(path: Path) -> None:
    for block in blocks(path, "python"):
        ast.parse(block)


def test_every_field_of_a_model_is_explained() -> None:
    text = (ROOT / "docs/models.md").read_text()
    shown = {name for row in table(text, after="\n## Fields of a model\n") for name in INLINE.findall(row[0])}
    assert shown == set(MODEL_FIELDS)
    shown = {name for row in table(text, after="\n## Engines of a model\n") for name in INLINE.findall(row[0])}
    assert shown == {*ATTACHED_FIELDS, *STARTED_FIELDS}


def test_every_example_of_compose_is_explained() -> None:
    rows = table((ROOT / "docs/container.md").read_text(), after="\n## With Compose\n")
    shown = [LINK.findall(row[0])[0] for row in rows]
    assert sorted(shown) == [f"../etc/compose/{path.name}" for path in sorted((ROOT / "etc/compose").glob("*.yaml"))]


def test_every_exit_code_is_explained() -> None:
    codes = {0, 2, commands.FAILED, commands.TIMED_OUT, commands.DENIED} | exit_codes(ROOT / "berth")
    assert {int(row[0]) for row in table(TROUBLE, after="\n## Exit codes\n")} == codes


def test_every_status_of_an_error_is_explained() -> None:
    shown = {int(row[0]) for row in table(TROUBLE, after="\n## Requests fail\n")}
    assert shown == statuses(ApiError) - {405, 500}  # of no use to an operator: a wrong method, a fault of ours


def test_every_message_that_is_explained_is_one_of_berths() -> None:
    rows = [
        *table(TROUBLE, after="\n## It does not start\n"),
        *table(TROUBLE, after="\nWarnings do not prevent a start:\n"),
        *table(TROUBLE, after="\n## An engine does not get ready\n"),
    ]
    assert len(rows) > 30
    for row in rows:
        message = INLINE.findall(row[0])[0]
        assert message in OF_ENGINES or any(message in text for text in texts_of_berth()), message
    for message in OF_DOCKER:
        assert message in TROUBLE


def locked(engine: str, package: str) -> str:
    """From the lock, or from what is written beside it by hand."""
    texts = [path.read_text() for path in sorted((ROOT / "etc/engines").glob(f"{engine}.*"))]
    found = re.search(rf"^{re.escape(package)}==([^\s;]+)", "\n".join(texts), re.MULTILINE)
    assert found, f"nothing locks {package} for {engine}"
    return found[1]


def test_the_versions_of_the_engines_are_those_of_the_locks() -> None:
    text = (ROOT / "docs/engines.md").read_text()
    rows = {row[0]: row[1:] for row in table(text, after="\n## Separate environments\n")}
    assert rows["version"] == [locked("vllm", "vllm"), locked("sglang", "sglang"), locked("trtllm", "tensorrt-llm")]
    for package in ("torch", "flashinfer-python", "xgrammar"):
        assert rows[package] == [locked(engine, package) for engine in ("vllm", "sglang", "trtllm")]
    order = (EngineName.VLLM, EngineName.SGLANG, EngineName.TRTLLM)
    assert rows["minimum compute capability"] == [".".join(map(str, LEAST_CAPABILITY[engine])) for engine in order]

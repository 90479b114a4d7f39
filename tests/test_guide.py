"""The guide and the maintainers' pages say what the code does: blocks run, commands parse, tables and paths are complete.

Blocks of one page run in order and share their names, on one server. A comment `# -> text` says what a block prints; a block
with a title is a program of its own.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from support.servers import running_server
from tensorus import compression, errors, tensor_storage, types
from tensorus.cli._app import app
from tensorus_codecs.presets import PRESETS
from tensorus_server.filter.text import parse_filter
from tensorus_server.filter.tree import Operator, Property
from tensorus_server.processes.server import Server
from tensorus_server.rpc.status import STATUS_BY_REASON

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([DOCS / "index.md", *DOCS.glob("guide/*.md"), *DOCS.glob("reference/*.md")])
MAINTAINERS = sorted(DOCS.glob("maintainers/*.md"))
DOCUMENTS = sorted([*ROOT.glob("*.md"), *DOCS.glob("**/*.md")])

ADDRESS = "127.0.0.1:7733"
CODE_ROOTS = ("protos", "codecs", "server", "client", "tests", "benchmarks", "examples", "docs")

BLOCK = re.compile(r"^```(\w*)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PRINTED = re.compile(r"# -> (.*)$", re.MULTILINE)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def prose_of(path: Path) -> str:
    return BLOCK.sub("", text_of(path))


def table_rows(path: Path, heading: str) -> list[list[str]]:
    """Return the cells of the table whose first column is headed so, without its head."""
    after = text_of(path).split(f"| {heading} |", 1)[1].split("\n\n", 1)[0]
    return [[cell.strip() for cell in row.strip("| ").split(" | ")] for row in after.splitlines()[2:]]


# ---- Blocks ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guide_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("guide")) as running:
        yield running


@pytest.mark.parametrize("page", [page for page in PAGES if "```python" in text_of(page)], ids=name_of)
def test_the_blocks_of_a_page_run_and_print_what_it_says(
    page: Path, guide_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # What `exec` runs has a name of its own: torch looks classes up by it.
    names: dict[str, Any] = {"__name__": "guide"}
    try:
        run_blocks(page, guide_server.address, names)
    finally:
        if "client" in names:
            names["client"].close()


def run_blocks(page: Path, address: str, names: dict[str, Any]) -> None:
    for language, title, block in BLOCK.findall(text_of(page)):
        if language != "python":
            continue
        source = block.replace(ADDRESS, address)
        if title:
            Path(title).write_text(source, encoding="utf-8")
            ran = subprocess.run([sys.executable, title], capture_output=True, text=True, check=False, timeout=100)
            assert ran.returncode == 0, ran.stderr
            printed = ran.stdout
        else:
            with contextlib.redirect_stdout(io.StringIO()) as output:
                exec(compile(source, name_of(page), "exec"), names)
            printed = output.getvalue()
        assert printed.splitlines() == PRINTED.findall(block)


# ---- Commands ----------------------------------------------------------------------------------------------------------


def shell_lines(path: Path) -> list[str]:
    """Return the commands in indented and fenced blocks of a page."""
    shown = re.findall(r"^(?:    |\$ )?(tensorus .+)$", text_of(path), re.MULTILINE)
    return [line for line in shown if line.split()[1] in app.commands or line.split()[1].startswith("-")]


def inline_commands(path: Path) -> list[str]:
    """Return the commands in the prose of a page: often without arguments."""
    shown = re.findall(r"`(tensorus [^`]+)`", prose_of(path))
    return [line for line in shown if line.split()[1] in app.commands]


def every_command() -> Iterator[click.Command]:
    """Yield every command, and those of groups."""
    for command in app.commands.values():
        yield command
        if isinstance(command, click.Group):
            yield from command.commands.values()


@pytest.fixture
def no_files_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands parse that name files which are not here."""
    for command in every_command():
        for parameter in command.params:
            if isinstance(parameter.type, click.Path):
                monkeypatch.setattr(parameter.type, "exists", False)


def require_parses(line: str, *, whole: bool) -> None:
    """Raise what click does where it knows no such option or value, or, of a whole command, where something is missing."""
    _, name, *arguments = shlex.split(line, comments=True)
    if name.startswith("-"):
        assert name in {"--version", "--help"}
        return
    # Below the app, whose settings hold: a command keeps the options for help that it was first asked with.
    parent = click.Context(app, info_name="tensorus", **app.context_settings)
    command = app.commands[name]
    try:
        if isinstance(command, click.Group) and arguments:
            command, parent = command.commands[arguments[0]], command.make_context(name, arguments[:1], parent=parent)
            arguments = arguments[1:]
        command.make_context(name, arguments, parent=parent)
    except (click.MissingParameter, click.BadOptionUsage):
        # "`tensorus explain --plot`" names an option, and says nothing of what belongs to it.
        if whole:
            raise


@pytest.mark.usefixtures("no_files_needed")
@pytest.mark.parametrize("document", [path for path in DOCUMENTS if path.name != "CHANGELOG.md"], ids=name_of)
def test_every_command_that_is_shown_parses(document: Path) -> None:
    for line in shell_lines(document):
        require_parses(line, whole=True)
    for line in inline_commands(document):
        require_parses(line, whole=False)


@pytest.mark.usefixtures("no_files_needed")
def test_a_command_that_does_not_parse_is_found() -> None:
    with pytest.raises(click.NoSuchOption):
        require_parses("tensorus put d model.npy --presets none", whole=False)
    with pytest.raises(click.MissingParameter):
        require_parses("tensorus put d", whole=True)
    with pytest.raises(click.BadParameter):
        require_parses("tensorus bench --repeats none", whole=True)


@pytest.mark.parametrize("document", [*PAGES, DOCS / "OPERATIONS.md", DOCS / "PERFORMANCE.md"], ids=name_of)
def test_every_option_that_is_named_exists(document: Path) -> None:
    parameters = [parameter for command in every_command() for parameter in command.params]
    options = {option for parameter in parameters for option in (*parameter.opts, *parameter.secondary_opts)}
    named = set(re.findall(r"`(--[a-z][a-z-]*)", prose_of(document)))
    assert named <= options | {"--help", "--version"}


def test_the_page_of_the_command_line_has_every_command() -> None:
    assert set(re.findall(r"^## (\S+)$", text_of(DOCS / "guide" / "cli.md"), re.MULTILINE)) == set(app.commands)


# ---- Tables ------------------------------------------------------------------------------------------------------------


def test_the_tables_of_filters_are_complete_and_their_examples_parse() -> None:
    page = DOCS / "guide" / "queries.md"
    operators = table_rows(page, "operator")
    named = {name for row in operators for name in re.findall(r"`([^`]+)`", row[0])}
    assert named == {operator.value for operator in Operator} | {"IN", "STARTS WITH", "EXISTS", "AND", "OR", "NOT"}
    for row in operators:
        parse_filter(row[2].strip("`"))
    properties = {name for row in table_rows(page, "property") for name in re.findall(r"`@([\w.]+)`", row[0])}
    assert properties == {found.value for found in Property} | {"dim.0", "dim.1"}


def test_the_table_of_errors_has_every_error() -> None:
    documented = [row[0].strip("`") for row in table_rows(DOCS / "guide" / "errors.md", "error")]
    assert len(documented) == len(set(documented))
    kinds = {name: getattr(errors, name) for name in errors.__all__}
    assert set(documented) == {
        name
        for name, kind in kinds.items()
        if isinstance(kind, type) and issubclass(kind, errors.TensorusError) and kind is not errors.TensorusError
    }


def test_the_table_of_presets_has_every_preset() -> None:
    rows = table_rows(DOCS / "guide" / "presets.md", "you want")
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row[1])} == set(PRESETS)


def test_the_failure_model_has_every_reason_and_every_thread() -> None:
    page = DOCS / "maintainers" / "failures.md"
    reasons = {name for row in table_rows(page, "reason") for name in re.findall(r"[A-Z_]{4,}", row[0])}
    assert reasons == set(STATUS_BY_REASON)
    named = r"(?:thread_name_prefix=|name=|_thread_names = )f?\"tensorus-([a-z-]+)"
    watched = r"(?:Watched|WorkerPool)\([^\"\n]*\"([a-z-]+)\""
    started = {
        name.strip("-")
        for folder in ("server", "client")
        for path in (ROOT / folder).rglob("*.py")
        for pattern in (named, watched)
        if "hread" in text_of(path)
        for name in re.findall(pattern, text_of(path))
    }
    documented = {name for row in table_rows(page, "thread") for name in re.findall(r"`([a-z-]+)`", row[0])}
    assert documented == started


@pytest.mark.parametrize("module", [types, errors, compression, tensor_storage], ids=lambda module: module.__name__)
def test_the_reference_has_every_public_name_once(module: Any) -> None:
    page = text_of(DOCS / "reference" / f"{module.__name__.rpartition('.')[2]}.md")
    shown = re.findall(rf"^::: {re.escape(module.__name__)}\.(\w+)$", page, re.MULTILINE)
    # `error_for` makes the client's errors, and is nothing for users.
    assert sorted(shown) == sorted(set(module.__all__) - {"error_for"})


def test_what_the_reference_shows_exists() -> None:
    for page in DOCS.glob("reference/*.md"):
        for name in re.findall(r"^::: (\S+)$", text_of(page), re.MULTILINE):
            assert is_documented(name), name


# ---- Links, paths, menu ------------------------------------------------------------------------------------------------


def anchors_of(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as the site and common hosts of repositories make them."""
    headings = re.findall(r"^#+ +(.+)$", prose_of(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def is_documented(name: str) -> bool:
    """Return whether the site's reference has an anchor of this name: a public name of the code."""
    with contextlib.suppress(ImportError):
        # Otherwise `tensorus.aio` would exist only if an earlier test had imported it.
        importlib.import_module(".".join(name.split(".")[:2]))
    found: Any = None
    for part in name.split("."):
        parent = found
        found = __import__(part) if parent is None else getattr(parent, part, None)
        if found is None and (parent is None or part not in getattr(parent, "__dataclass_fields__", {})):
            return False
    return True


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_anchor_that_a_link_names_exists(document: Path) -> None:
    for path, anchor in re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", prose_of(document)):
        if "://" in path:
            continue
        target = (document.parent / path).resolve() if path else document
        if anchor.startswith("tensorus."):
            assert target.parent.name == "reference"
            assert is_documented(anchor), anchor
        else:
            assert anchor in anchors_of(target), f"{path}#{anchor}"


def test_the_menu_has_every_page_once() -> None:
    def files(entries: Any) -> Iterator[str]:
        for entry in entries:
            for value in entry.values():
                if isinstance(value, str):
                    yield value
                else:
                    yield from files(value)

    menu = list(files(tomllib.loads(text_of(ROOT / "zensical.toml"))["project"]["nav"]))
    assert len(menu) == len(set(menu))
    # Decisions are listed on a page of their own, which `make docs` writes.
    pages = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md") if path.parent.name != "adr"}
    assert set(menu) == pages | {"CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "adr/index.md"}


@pytest.mark.parametrize("page", MAINTAINERS, ids=name_of)
def test_every_path_that_a_page_for_maintainers_names_exists(page: Path) -> None:
    roots = "|".join(CODE_ROOTS)
    paths = re.findall(rf"`((?:{roots})/[^`\s]+)`", text_of(page))
    assert page.name == "laboratory.md" or paths
    for path in paths:
        if "<" not in path:
            assert (ROOT / path).exists(), path


def test_the_site_s_pages_have_no_link_to_what_is_no_page() -> None:
    environment = {**os.environ, "PYTHONPATH": str(DOCS)}
    source = """
import build
places = build.pages()
texts = {place: build.on_site(page, (build.ROOT / page).read_text(encoding="utf-8"), places) for page, place in places.items()}
for place, text in texts.items():
    for label, target in build._LINK.findall(text):
        path = target.partition("#")[0]
        if path and "://" not in path and path.endswith(".md"):
            assert build.PurePosixPath(build.os.path.normpath(place.parent / path)) in texts, (place, target)
print(len(texts))
"""
    ran = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, env=environment, check=False)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) == len(list(DOCS.rglob("*.md"))) + 3

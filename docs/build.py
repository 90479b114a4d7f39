"""Builds the documentation site in build/site, configured by zensical.toml.

    python docs/build.py            build it; broken links, anchors and references are errors
    python docs/build.py --serve    serve it at 127.0.0.1:8000, and rebuild it when a page changes

The pages are also meant to be read in the repository, where a link may lead to any file. A site has only pages. So they are
first copied to build/pages: docs/adr/README.md gets a list of the decisions, and links to other files become paths.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[1]
STAGED = ROOT / "build" / "pages"

_BESIDE = ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
"""Pages at the repository's root."""

_LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)")

_LOOK_S = 1.0
"""How often pages are checked for changes while the site is served."""


def pages() -> dict[PurePosixPath, PurePosixPath]:
    """Return the path of every page in the repository, with its path on the site."""
    found = {PurePosixPath(name): PurePosixPath(name) for name in _BESIDE}
    for path in sorted((ROOT / "docs").rglob("*.md")):
        place = PurePosixPath(path.relative_to(ROOT / "docs").as_posix())
        found["docs" / place] = place.with_name("index.md") if place.name == "README.md" else place
    return found


def on_site(page: PurePosixPath, text: str, places: dict[PurePosixPath, PurePosixPath]) -> str:
    """Return a page's text with its links changed for the site.

    Args:
        page: its path in the repository.
        places: the result of `pages`.

    Raises:
        FileNotFoundError: a link leads nowhere; names the page and the link.
    """

    def link(match: re.Match[str]) -> str:
        label, target = match.groups()
        path, _, anchor = target.partition("#")
        if not path or "://" in path or path.startswith("mailto:"):
            return match.group()
        file = PurePosixPath(os.path.normpath(page.parent / path))
        if not (ROOT / file).exists():
            raise FileNotFoundError(f"{page}: link {target!r} leads nowhere")
        place = _place(file, places)
        if place is None:
            return f"`{file}`" if label.strip("`") in {file.name, str(file)} else f"{label} (`{file}`)"
        relative = os.path.relpath(place, places[page].parent)
        return f"[{label}]({relative}{'#' if anchor else ''}{anchor})"

    parts = re.split(r"(^```.*?^```$)", text, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if part.startswith("```") else _LINK.sub(link, part) for part in parts)


def _place(file: PurePosixPath, places: dict[PurePosixPath, PurePosixPath]) -> PurePosixPath | None:
    """Return the path on the site of a file in the repository; None if it is not a page."""
    if file == PurePosixPath("README.md"):
        return PurePosixPath("index.md")
    return places.get(file) or places.get(file / "README.md")


def decisions() -> str:
    """Return a list of all decisions, as Markdown."""
    titles = {
        path.name: path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
        for path in sorted((ROOT / "docs" / "adr").glob("0*.md"))
    }
    return "".join(f"- [{title.replace('.', chr(92) + '.', 1)}]({name})\n" for name, title in titles.items())


def stage() -> None:
    """Write new and changed pages to build/pages, and remove deleted ones."""
    places = pages()
    for page, place in places.items():
        text = on_site(page, (ROOT / page).read_text(encoding="utf-8"), places)
        if place == PurePosixPath("adr/index.md"):
            text += f"\n{decisions()}"
        target = STAGED / place
        if not target.exists() or target.read_text(encoding="utf-8") != text:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
    for path in STAGED.rglob("*.md"):
        if PurePosixPath(path.relative_to(STAGED).as_posix()) not in places.values():
            path.unlink()


def main() -> int:
    """Build the site, or serve it until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Build the documentation site into build/site.")
    parser.add_argument("--serve", action="store_true", help="serve it at 127.0.0.1:8000, and follow changes")
    serves = parser.parse_args().serve
    try:
        stage()
    except FileNotFoundError as error:
        parser.exit(1, f"{error}\n")
    # The command next to this interpreter, in the environment that `make docs` created.
    zensical = [str(Path(sys.executable).with_name("zensical"))]
    if not serves:
        ran = subprocess.run([*zensical, "build", "--strict"], cwd=ROOT, check=False, stderr=subprocess.PIPE, text=True)
        # Zensical prints the issues first, then a traceback of its own, which does not help.
        issues, _, stack = ran.stderr.partition("Traceback (most recent call last)")
        sys.stderr.write(issues if "--strict flag is set" in stack else ran.stderr)
        return ran.returncode
    with subprocess.Popen([*zensical, "serve", "--dev-addr", "127.0.0.1:8000"], cwd=ROOT) as server:
        try:
            while server.poll() is None:
                time.sleep(_LOOK_S)
                with suppress(FileNotFoundError):  # a link to a page that does not exist yet
                    stage()
        except KeyboardInterrupt:
            server.terminate()
    return 0


if __name__ == "__main__":
    sys.exit(main())

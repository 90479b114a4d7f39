"""Packages of third parties, installed for the length of a test: a folder on the path, with what an installer leaves there."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tensorus_codecs import registry
from tensorus_codecs.plan import plan

_CONTRIBUTING = Path(__file__).parents[2] / "CONTRIBUTING.md"


@contextmanager
def installed(
    folder: Path, *, name: str, entry_points: Mapping[str, str], modules: Mapping[str, str]
) -> Iterator[None]:
    """Install the distribution `name` into `folder`, and look for codecs anew.

    Args:
        entry_points: objects in the group of codecs, by name.
        modules: source by module.
    """
    metadata = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [f"{codec_id} = {location}" for codec_id, location in entry_points.items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[tensorus.codecs]", *lines, ""]))
    for module, source in modules.items():
        (folder / f"{module}.py").write_text(source)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        look_anew()
        try:
            yield
        finally:
            for module in modules:
                sys.modules.pop(module, None)
    importlib.invalidate_caches()
    look_anew()


def look_anew() -> None:
    """Forget which third parties' codecs were found, and plans that were made with them."""
    registry._third_parties.cache_clear()
    plan.cache_clear()


def example() -> tuple[dict[str, str], dict[str, str]]:
    """Return entry points and modules of the example in CONTRIBUTING.md."""
    section = _CONTRIBUTING.read_text(encoding="utf-8").split("## Codecs of third parties", 1)[1].split("\n## ", 1)[0]
    toml, source = (re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)[1] for language in ("toml", "python"))
    table = toml.split('[project.entry-points."tensorus.codecs"]\n', 1)[1]
    entry_points = dict(re.findall(r'^(\w+) = "(.+)"$', table, re.MULTILINE))
    module = re.match(r"# (\w+)\.py\n", source)[1]
    return entry_points, {module: source}

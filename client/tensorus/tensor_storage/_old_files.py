"""Imports dataset files of Tensorus 0.1 when a store in the same folder is opened.

The files do not change. `imported.json` beside them records which were imported, so that each is imported only once, and a
dataset that is deleted later stays deleted. A file that could not be imported is tried again at the next opening; until then
its name stays taken. Processes that open the folder at the same time wait for each other.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path
    from typing import TextIO

    from tensorus.client import Client
    from tensorus.old_files import FileReport

__all__ = ["import_old_files"]

_STATE_FILE = "imported.json"

_log = logging.getLogger(__name__)


def import_old_files(client: Client, folder: Path) -> tuple[FileReport, ...]:
    """Import every file that was not imported before, and return a report for each that was tried."""
    paths = [path for path in sorted(folder.glob("*.pt")) if path.is_file()]
    if not paths:
        return ()
    import fcntl  # noqa: PLC0415 - missing on Windows, as is the engine

    from tensorus.old_files.storing import import_file, summary_of  # noqa: PLC0415 - few folders have such files

    reports = []
    with (folder / _STATE_FILE).open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        imported = _read(file)
        for path in paths:
            mark = [path.stat().st_size, path.stat().st_mtime_ns]
            if imported.get(path.name) == mark:
                continue
            report = import_file(client, path)
            reports.append(report)
            if report.error:
                _log.warning("%s is not imported: %s", path, report.error)
            else:
                summary = summary_of([report])
                incomplete = summary.failed or summary.dropped or summary.counts["lossy"]
                _log.log(logging.WARNING if incomplete else logging.INFO, "%s is imported: %s", path, summary)
                imported[path.name] = mark
                _write(file, imported)
    return tuple(reports)


def _read(file: TextIO) -> dict[str, Any]:
    """Return size and modification time of each imported file. `Any`: a file may contain anything."""
    file.seek(0)
    try:
        found = json.load(file)
    except ValueError:
        # Empty, or torn by a crash. Importing again stores nothing twice.
        return {}
    return found if isinstance(found, dict) else {}


def _write(file: TextIO, imported: dict[str, Any]) -> None:
    file.seek(0)
    file.truncate()
    json.dump(imported, file, indent=1)
    file.flush()

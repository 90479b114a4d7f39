"""Checks whether a server could open a store whose payloads are in an object store; see `checking.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensorus_server.app.checking import Check, attempt, describe_schema
from tensorus_server.app.remote import open_for_check, postgres_missing
from tensorus_server.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tensorus_server.app.checking import Outcome
    from tensorus_server.catalogue.identity_check import FoundPayloads
    from tensorus_server.catalogue.postgres.checking import FoundCatalogue
    from tensorus_server.config import EngineConfig

__all__ = ["check_remote"]


def check_remote(config: EngineConfig, check_local: Callable[[FoundPayloads], Check]) -> Iterator[Check]:
    """Check the object store, the catalogue, and whether they belong together.

    Args:
        check_local: checks a catalogue in SQLite.

    Raises:
        ImportError: a library is not installed.
    """
    try:
        store = open_for_check(config)
    except EngineError as error:
        yield Check("object store", "failed", str(error))
        yield Check("catalogue", "failed", "not checked, since the payloads say which store it must be of")
        return
    try:
        # What was tried is in `probe.py`.
        yield Check("object store", "ok", f"{store.client.name} permits what is needed")
        if config.catalogue is None:
            yield check_local(store)
        else:
            yield from _check_postgres(config.catalogue, store)
    finally:
        store.close()


def _check_postgres(dsn: str, payloads: FoundPayloads) -> Iterator[Check]:
    try:
        from tensorus_server.catalogue.postgres.checking import check_catalogue  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise postgres_missing(error) from error
    found: FoundCatalogue | None = None

    def catalogue() -> tuple[Outcome, str]:
        nonlocal found
        found = check_catalogue(dsn, payloads)
        outcome, detail = describe_schema(found.version, found.latest)
        return outcome, f"{found.where}: {detail}"

    yield attempt("catalogue", catalogue)
    if found is not None:
        named = f"open in {', '.join(found.members)}" if found.members else "no process has the store open"
        yield Check("processes", "ok", named)

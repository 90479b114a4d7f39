"""Stores dataset files of Tensorus 0.1 through any client, losslessly, each under its own name.

The command `tensorus import` and `TensorStorage` both import by way of this module.

A dataset is made under its final name and filled in one insert, in the order of the file. Where the file as a whole fails on
the way, or the store does, the dataset is deleted again, so that its name is free of half of it; `all_or_nothing` would be the
simpler way, and takes 4096 tensors. A process that is killed meanwhile leaves the beginning of the dataset, and the next import
of the file goes on behind it: whatever is there already is recognized by id and values, and never stored twice. A dataset that
was there before is never deleted.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import xxhash

from tensorus._arrays.canonical import canonical_blocks, dtype_name
from tensorus.errors import AlreadyExistsError, InsertManyError, InvalidRequestError, TensorusError
from tensorus.old_files import FileReport, OldDataset, OldFileError, OldSchema
from tensorus.old_files.compressors import INFLATED_BYTES_MAX
from tensorus.old_files.report import dropped_counts, status_counts, summary_of
from tensorus.types import NewTensor, Policy, Schema

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator

    from tensorus._arrays.canonical import AnyArray
    from tensorus.client import Client
    from tensorus.old_files import OldRecord, RecordOutcome
    from tensorus.types import TensorInfo

__all__ = ["examine_file", "import_file", "old_files", "summary_of"]

_LOSSLESS = Policy(preset="lossless")

_BLOCK_BYTES = 1024 * 1024
"""What is hashed at once."""


def old_files(folder: str | os.PathLike[str], datasets: Iterable[str] = ()) -> list[Path]:
    """Return the files of datasets in a folder, by name.

    Args:
        datasets: names of those that are wanted; none: all.

    Raises:
        FileNotFoundError: there is no such folder, no file in it, or not one of a name.
    """
    found = {path.stem: path for path in sorted(Path(folder).iterdir()) if path.suffix == ".pt" and path.is_file()}
    wanted = list(datasets) or list(found)
    missing = [name for name in wanted if name not in found]
    if missing:
        raise FileNotFoundError(f"{folder} has no dataset {missing[0]!r}: there is no {missing[0]}.pt")
    if not wanted:
        raise FileNotFoundError(f"{folder} has no datasets: there is no .pt file")
    return [found[name] for name in dict.fromkeys(wanted)]


def examine_file(
    path: str | os.PathLike[str],
    *,
    on_bytes: Callable[[int], None] | None = None,
    inflated_bytes_max: int = INFLATED_BYTES_MAX,
) -> FileReport:
    """Read all of a file, and report what an import would make of it. Stores nothing. Arguments as of `import_file`."""
    with _Attempt(path) as attempt:
        old = attempt.open(inflated_bytes_max)
        for record in old.records():
            attempt.outcomes.append(record.outcome)
            if on_bytes is not None:
                on_bytes(record.file_bytes)
            # Not to be held while the next one is made.
            del record
    return attempt.report()


def import_file(
    client: Client,
    path: str | os.PathLike[str],
    *,
    on_bytes: Callable[[int], None] | None = None,
    inflated_bytes_max: int = INFLATED_BYTES_MAX,
) -> FileReport:
    """Store a dataset of the original, and report what became of every record.

    Atomic as far as the file goes: where it cannot be read, or none of its records can, no dataset is made of it. Idempotent.
    The file is only read. Memory: see `OldDataset`, and what an insert holds.

    Args:
        path: the file; its name without the ending is the dataset's.
        on_bytes: called with the bytes of the file that each record took, on any thread.
        inflated_bytes_max: what a compressed record may inflate to; one beyond fails.

    Raises:
        TensorusError: the store failed, or cannot be reached. What of the file it had taken is deleted, where it still can be.
    """
    with _Attempt(path) as attempt:
        _Import(client, attempt, attempt.open(inflated_bytes_max), on_bytes).run()
    return attempt.report()


class _Attempt:
    """What is known of a file while it is read; what makes it fail as a whole ends the block, and goes into the report."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._old: OldDataset | None = None
        self._error = ""
        self.outcomes: list[RecordOutcome] = []
        self.left_out: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> bool:
        if self._old is not None:
            self._old.close()
        # An error of the store may be an OSError, too: no connection.
        if isinstance(error, TensorusError) or not isinstance(error, (OldFileError, OSError, ImportError)):
            return False
        self.outcomes.clear()
        self._error = (error.strerror if isinstance(error, OSError) else None) or str(error)
        return True

    def open(self, inflated_bytes_max: int) -> OldDataset:
        """Open the file."""
        self._old = OldDataset(self._path, inflated_bytes_max=inflated_bytes_max)
        self.left_out += self._old.left_out
        return self._old

    def report(self) -> FileReport:
        """Return what became of it."""
        outcomes = tuple(self.outcomes)
        counts = status_counts(outcomes)
        error = self._error
        if outcomes and counts["failed"] == len(outcomes):
            error = f"none of its records can be imported; the first: {outcomes[0].reason}"
        return FileReport(
            file=str(self._path),
            dataset=self._path.stem,
            file_bytes=self._old.file_bytes if self._old is not None else 0,
            error=error,
            generation=self._old.generation if self._old is not None else None,
            notes=self._old.notes if self._old is not None else (),
            left_out=tuple(self.left_out),
            counts=counts,
            saturated_records=sum(outcome.saturated_count > 0 for outcome in outcomes),
            outcomes=outcomes,
            dropped=dropped_counts(outcomes),
        )


@dataclass(frozen=True)
class _Stored:
    """A tensor as the store had it before."""

    dtype: str
    shape: tuple[int, ...]
    checksum: str

    @classmethod
    def of(cls, info: TensorInfo) -> _Stored:
        return cls(info.dtype, info.shape, info.source_checksum)

    @classmethod
    def of_array(cls, array: AnyArray) -> _Stored:
        digest = xxhash.xxh3_128()
        for block in canonical_blocks(array, _BLOCK_BYTES):
            digest.update(block)
        return cls(dtype_name(array), array.shape, digest.hexdigest())


class _Import:
    """One file on its way into a store."""

    def __init__(
        self, client: Client, attempt: _Attempt, old: OldDataset, on_bytes: Callable[[int], None] | None
    ) -> None:
        self._client = client
        self._old = old
        self._on_bytes = on_bytes
        self._outcomes = attempt.outcomes
        self._left_out = attempt.left_out
        self._sent: list[int] = []
        """Positions in the file of what was sent, in order."""

    def run(self) -> None:
        """Store everything; or nothing, where the file or the store fails."""
        created = self._create()
        before = {} if created else self._before()
        try:
            self._insert(before)
            if created and self._outcomes and all(outcome.status == "failed" for outcome in self._outcomes):
                self._client.delete_dataset(self._old.name)
                return
            self._set_schema()
        except BaseException:
            if created:
                with suppress(TensorusError):
                    self._client.delete_dataset(self._old.name)
            raise

    def _create(self) -> bool:
        """Return whether there was no dataset of the name; now there is one."""
        try:
            self._client.create_dataset(self._old.name, policy=_LOSSLESS)
        except AlreadyExistsError:
            return False
        except InvalidRequestError as error:
            raise OldFileError(f"a dataset cannot be called {self._old.name!r}: {error}") from error
        return True

    def _before(self) -> dict[str, _Stored]:
        """Return what the dataset holds already, by id.

        Raises:
            OldFileError: it holds tensors, and none of this file: the name is another dataset's.
        """
        before = {info.id: _Stored.of(info) for info in self._client.list(self._old.name)}
        if before and len(self._old) and not any(record_id.id in before for record_id in self._old.record_ids):
            raise OldFileError(f"the store has another dataset {self._old.name!r}, which holds no record of this file")
        return before

    def _insert(self, before: dict[str, _Stored]) -> None:
        try:
            self._client.insert_many(self._old.name, self._tensors(before))
        except InsertManyError as error:
            for number, failure in error.failed:
                if not isinstance(failure, (InvalidRequestError, AlreadyExistsError)):
                    # Not of this tensor, but of the store.
                    raise failure from error
                position = self._sent[number]
                self._outcomes[position] = replace(self._outcomes[position], status="failed", reason=str(failure))

    def _tensors(self, before: dict[str, _Stored]) -> Iterator[NewTensor]:
        """Yield what is to be stored, and put down what becomes of every record. Runs on any thread."""
        for record in self._old.records():
            outcome = _against(before, record)
            self._outcomes.append(outcome)
            if outcome.status not in {"failed", "present"}:
                self._sent.append(outcome.position)
                yield NewTensor(record.array, outcome.id, record.metadata, _LOSSLESS)
            if self._on_bytes is not None:
                self._on_bytes(record.file_bytes)
            # Not to be held while the next one is made.
            del record

    def _set_schema(self) -> None:
        """Have later inserts held to the schema of the file. Not before: what the file holds need not fit it."""
        old = self._old.schema
        schema = self._client.dataset(self._old.name).schema
        if old == OldSchema() or schema.dtype or schema.shape is not None or schema.metadata:
            return
        try:
            self._client.update_dataset(self._old.name, schema=Schema(old.dtype, old.shape, old.metadata))
        except InvalidRequestError as error:
            self._left_out.append(f"its schema is dropped: {error}")


def _against(before: dict[str, _Stored], record: OldRecord) -> RecordOutcome:
    """Return what becomes of a record where a store has these tensors already."""
    outcome = record.outcome
    if record.array is None or outcome.id not in before:
        return outcome
    if before[outcome.id] == _Stored.of_array(record.array):
        return replace(outcome, status="present", reason="")
    return replace(outcome, status="failed", reason="the store has another tensor with this id")

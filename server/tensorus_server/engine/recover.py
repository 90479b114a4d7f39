"""Recovers missing rows of the catalogue from the footers of their payloads.

It is for a catalogue that is lost, damaged, or older than its payloads. It deletes no payload and replaces no intact row. It
cannot recover inline tensors (up to 64 KiB stored), which were in the catalogue itself, metadata that was replaced after the
insert, snapshots, or the policies, schemas and retentions of datasets. If the catalogue has lost the record of a deletion that
is less than an hour old, or whose tensor was kept for a snapshot or the retention, the tensor reappears.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tensorus_codecs.checksum import crc32c
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.catalogue.abc import DamagedTensor, PageRequest
from tensorus_server.chunk_index import ENTRY_BYTES
from tensorus_server.chunk_store.files import Files
from tensorus_server.chunk_table import ChunkTable, IndexEnd
from tensorus_server.engine.footer import FooterError, read_footer
from tensorus_server.errors import DataCorruptError, DatasetNotFoundError, EngineError
from tensorus_server.model import Schema, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import BinaryIO

    from tensorus_server.catalogue.abc import Catalogue
    from tensorus_server.engine.footer import Footer
    from tensorus_server.model import Dataset, Locator

__all__ = ["Finding", "Recovery", "recover"]

_PAGE = 1000


@dataclass(frozen=True)
class Finding:
    """The outcome for one payload."""

    file: str
    """The payload's path within the store's folder."""
    outcome: str
    """"recovered", "older" (another payload with the same id was sealed later), "kept" (the id has an intact row with another
    payload, which is kept), or "failed"."""
    dataset: str = ""
    """The dataset in the footer; empty if the footer cannot be read. The same goes for `id`."""
    id: str = ""
    reason: str = ""
    """Why the payload was not recovered."""


@dataclass
class Recovery:
    """The result of a recovery."""

    known: int = 0
    """Payloads that a tensor or a tombstone in the catalogue refers to."""
    findings: list[Finding] = field(default_factory=list)
    """One for each other payload."""
    datasets: list[str] = field(default_factory=list)
    """Datasets that were recreated or repaired, with the default policy and without a schema."""
    damaged: list[str] = field(default_factory=list)
    """Tensors whose rows are damaged and were not replaced, as "dataset/id"."""
    moved: str = ""
    """The new name of a catalogue that could not be opened; empty: none was renamed."""

    @property
    def is_complete(self) -> bool:
        """Whether everything could be recovered."""
        return not self.damaged and all(finding.outcome in {"recovered", "older"} for finding in self.findings)


@dataclass(frozen=True)
class _Candidate:
    path: Path
    file: str
    footer: Footer
    needs: _Needs


@dataclass(frozen=True)
class _Needs:
    """The other payloads that a payload needs."""

    references: tuple[Locator, ...] = ()
    """Those that its chunk table names."""
    bases: tuple[Locator, ...] = ()
    """Those that its base section names."""


def recover(folder: Path, catalogue: Catalogue, *, moved: str = "") -> Recovery:
    """Recover missing rows. No other process may use the store meanwhile.

    Args:
        catalogue: the catalogue of the store in `folder`.
        moved: the new name of an old catalogue that could not be opened, for the report.
    """
    recovery = Recovery(moved=moved)
    intact, damaged = _rows(catalogue)
    newest: dict[tuple[str, str], _Candidate] = {}
    for candidate in _candidates(folder, catalogue, intact, damaged, recovery):
        place = candidate.footer.dataset, candidate.footer.id
        other = newest.get(place)
        if other is not None:
            older = min(candidate, other, key=lambda one: one.footer.sealed_us)
            recovery.findings.append(
                Finding(older.file, "older", *place, "another payload of this id was sealed later")
            )
            candidate = max(candidate, other, key=lambda one: one.footer.sealed_us)  # noqa: PLW2901 - keeps the newer one
        newest[place] = candidate
    # In the order of the original commits, so that generations and ordinals ascend as they did.
    for candidate in sorted(newest.values(), key=lambda one: one.footer.sealed_us):
        recovery.findings.append(_recovered(folder, catalogue, candidate, damaged, recovery))
    recovery.damaged = [f"{dataset}/{tensor_id}" for dataset, tensor_id in damaged]
    return recovery


def _rows(catalogue: Catalogue) -> tuple[set[str], dict[tuple[str, str], int]]:
    """Return the payload keys of intact rows, and the generations of damaged rows of current tensors by dataset and id."""
    keys: set[str] = set()
    damaged: dict[tuple[str, str], int] = {}
    for dataset in _datasets(catalogue):
        name = dataset.facts["dataset"] if isinstance(dataset, DataCorruptError) else dataset.name
        for tensor in _tensors(catalogue, name, with_past=True):
            if isinstance(tensor, Tensor):
                keys.add(tensor.locator.key)
        for tensor in _tensors(catalogue, name, with_past=False):
            if isinstance(tensor, DamagedTensor):
                damaged[name, tensor.error.facts["tensor"]] = tensor.generation
    return keys, damaged


def _tensors(catalogue: Catalogue, dataset: str, *, with_past: bool) -> Iterator[Tensor | DamagedTensor]:
    """Yield the tensors of a dataset, as far as they can be read."""
    request: PageRequest | None = PageRequest(size=_PAGE, with_past=with_past)
    while request is not None:
        try:
            page = catalogue.tensors.page(dataset, request)
        except (DataCorruptError, DatasetNotFoundError):
            return
        yield from page.tensors
        request = None if page.next is None else replace(request, after=page.next)


def _datasets(catalogue: Catalogue) -> Iterator[Dataset | DataCorruptError]:
    after: int | None = 0
    while after is not None:
        page = catalogue.datasets.page(after, _PAGE)
        yield from (dataset for _, dataset in page.datasets)
        after = page.next


def _candidates(
    folder: Path,
    catalogue: Catalogue,
    intact: set[str],
    damaged: dict[tuple[str, str], int],
    recovery: Recovery,
) -> Iterator[_Candidate]:
    """Yield payloads without an intact row whose footers and chunk indexes are intact; report the others."""
    for path in _files(folder):
        file = path.relative_to(folder).as_posix()
        key = f"{path.parent.name}/{path.name}"
        if key in intact:
            recovery.known += 1
            continue
        try:
            footer, needs = _footer(path)
        except (FooterError, OSError, ValueError, LookupError, TypeError) as error:
            recovery.findings.append(Finding(file, "failed", reason=str(error)))
            continue
        if key not in catalogue.garbage.orphans([key]) and (footer.dataset, footer.id) not in damaged:
            # A tombstone refers to it: it was deleted, and the sweep will remove it.
            recovery.known += 1
            continue
        yield _Candidate(path, file, footer, needs)


def _files(folder: Path) -> Iterator[Path]:
    """Yield payloads, including those in quarantine, but not those of unfinished uploads."""
    for pattern in ("chunks/*/*", "quarantine/*"):
        for path in sorted(folder.glob(pattern)):
            if path.is_file() and not path.is_symlink() and ".uploads." not in path.name:
                yield path


def _footer(path: Path) -> tuple[Footer, _Needs]:
    """Return the footer of a payload, and the other payloads that it needs.

    Raises:
        FooterError: the footer, the chunk index, the chunk table or the base section is damaged.
    """
    with path.open("rb") as file:

        def read(offset: int, length: int) -> bytes:
            file.seek(offset)
            return file.read(length)

        footer = read_footer(read, os.fstat(file.fileno()).st_size)
        needs = _needs(read, footer.payload_bytes, footer.fields["index_length"], footer.fields["index_crc32c"])
    if path.parent.parent.name == "chunks" and path.name != footer.payload_key:
        raise FooterError(f"the footer is of payload {footer.payload_key}")
    return footer, needs


def _needs(read: Callable[[int, int], bytes], payload_bytes: int, index_bytes: int, index_crc32c: int) -> _Needs:
    """Return the other payloads that a payload needs, by its chunk table and its base section."""

    def checked(what: str, before: int, length: int, expected: int) -> bytes:
        section = read(payload_bytes - before - length, length)
        if (found := crc32c(section)) != expected:
            raise FooterError(f"CRC32C of {what} is {found:#010x}, expected {expected:#010x}")
        return section

    def named(what: str, before: int, length: int, expected: int) -> tuple[Locator, ...]:
        return ChunkTable.parse(checked(what, before, length, expected)).payloads if length else ()

    index = checked("the chunk index", 0, index_bytes, index_crc32c)
    if index_bytes % ENTRY_BYTES == 0:
        return _Needs()
    end = IndexEnd.parse(index)
    before = index_bytes + end.details_bytes
    return _Needs(
        named("the chunk table", before, end.table_bytes, end.table_crc32c),
        named("the base section", before + end.table_bytes, end.bases_bytes, end.bases_crc32c),
    )


def _recovered(
    folder: Path,
    catalogue: Catalogue,
    candidate: _Candidate,
    damaged: dict[tuple[str, str], int],
    recovery: Recovery,
) -> Finding:
    footer, place = candidate.footer, (candidate.footer.dataset, candidate.footer.id)
    try:
        dataset = _dataset(catalogue, footer.dataset, recovery)
        if place not in damaged:
            (found,) = catalogue.tensors.get(footer.dataset, [footer.id])
            if isinstance(found, Tensor):
                reason = f"the catalogue has generation {found.generation} of this id, with another payload"
                return Finding(candidate.file, "kept", *place, reason)
        bases_of_others = _restore_needed(folder, candidate.needs)
        key = _published(folder, candidate)
        stored = replace(
            footer.stored_tensor(dataset, key, if_generation_match=damaged.get(place)),
            references=tuple(payload.key for payload in candidate.needs.references),
            bases=tuple(payload.key for payload in candidate.needs.bases),
            bases_of_others=bases_of_others,
        )
        (outcome,) = catalogue.tensors.commit([stored])
        if isinstance(outcome, Exception):
            raise outcome
    except (EngineError, FooterError, OSError, ValueError) as error:
        return Finding(candidate.file, "failed", *place, str(error))
    damaged.pop(place, None)
    return Finding(candidate.file, "recovered", *place)


def _dataset(catalogue: Catalogue, name: str, recovery: Recovery) -> Dataset:
    """Return the dataset; recreate it if it is missing, and repair it if its row is damaged."""
    try:
        return catalogue.datasets.get(name)
    except DatasetNotFoundError:
        made = catalogue.datasets.create(name, StoragePolicy(), Schema())
    except DataCorruptError:
        made = catalogue.datasets.update(name, StoragePolicy(), Schema())
    recovery.datasets.append(name)
    return made


def _published(folder: Path, candidate: _Candidate) -> str:
    """Return the key of the payload; if it is in quarantine, move it back to the published ones first."""
    if candidate.path.parent.parent == folder / "chunks":
        return f"{candidate.path.parent.name}/{candidate.path.name}"
    # "<until>.<shard>.<payload key>"; chunk tables of other tensors may name the payload with its shard.
    _, _, place = candidate.path.name.partition(".")
    shard, _, payload_key = place.partition(".")
    if payload_key != candidate.footer.payload_key:
        payload_key = candidate.footer.payload_key
        shard = payload_key[:2]
    key = f"{shard}/{payload_key}"
    _move_back(folder, candidate.path, key)
    return key


def _restore_needed(folder: Path, needs: _Needs) -> tuple[tuple[str, str], ...]:
    """Make sure that all payloads that a payload needs are there, and those that these need as their bases, and so on.

    Returns:
        The keys of payloads with bases, each with the key of the one of them that needs it.

    Raises:
        FooterError: one of them is nowhere, or damaged.
    """
    pairs: list[tuple[str, str]] = []
    waiting, seen = [*needs.references, *needs.bases], set()
    while waiting:
        payload = waiting.pop()
        if payload.key in seen:
            continue
        seen.add(payload.key)
        _restore(folder, payload.key)
        with (folder / "chunks" / payload.key).open("rb") as file:

            def read(offset: int, length: int, file: BinaryIO = file) -> bytes:
                file.seek(offset)
                return file.read(length)

            bases = _needs(read, payload.length, payload.index_length, payload.index_crc32c).bases
        pairs += [(base.key, payload.key) for base in bases]
        waiting += bases
    return tuple(pairs)


def _restore(folder: Path, key: str) -> None:
    """Make sure that a payload that a tensor needs is there; if it is in quarantine, move it back.

    Raises:
        FooterError: it is nowhere.
    """
    if (folder / "chunks" / key).is_file():
        return
    quarantined = sorted(folder.glob(f"quarantine/*.{key.replace('/', '.')}"))
    if not quarantined:
        raise FooterError(
            f"the payload {key}, which has other chunks of the tensor, or bases of its chunks, is missing"
        )
    _move_back(folder, quarantined[0], key)


def _move_back(folder: Path, path: Path, key: str) -> None:
    target = folder / "chunks" / key
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = Files()
    files.rename(path, target)
    files.sync_folder(target.parent)
    files.sync_folder(path.parent)

"""Recovers missing rows of the catalogue from the footers of their payloads, in a folder or in an object store.

It is for a catalogue that is lost, damaged, or older than its payloads. It deletes no payload and replaces no intact row. It
cannot recover inline tensors (up to 64 KiB stored), which were in the catalogue itself, metadata that was replaced after the
insert, snapshots, or the policies, schemas and retentions of datasets. If the catalogue has lost the record of a deletion that
is less than an hour old, or whose tensor was kept for a snapshot or the retention, the tensor reappears.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tensorus_codecs.checksum import crc32c
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.catalogue.abc import DamagedTensor, PageRequest
from tensorus_server.chunk_index import ENTRY_BYTES
from tensorus_server.chunk_store.abc import PayloadMissingError, PayloadUnreadableError
from tensorus_server.chunk_table import ChunkTable, IndexEnd
from tensorus_server.engine.footer import FooterError, read_footer
from tensorus_server.errors import DataCorruptError, DatasetNotFoundError, EngineError
from tensorus_server.model import Schema, Tensor
from tensorus_server.payload_keys import PackedKey, parse_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tensorus_server.catalogue.abc import Catalogue
    from tensorus_server.engine.footer import Footer
    from tensorus_server.engine.recovery_sources import RecoverySource, StoredPayload
    from tensorus_server.model import Dataset, Locator

__all__ = ["Finding", "Recovery", "recover"]

_PAGE = 1000

_UNREADABLE = (FooterError, OSError, PayloadMissingError, PayloadUnreadableError)


@dataclass(frozen=True)
class Finding:
    """The outcome for one payload."""

    file: str
    """The payload's path within the store's folder, or its key in the object store."""
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
    repaired: int = 0
    """Payloads in packs that rows of an older catalogue did not find, and that were found in newer packs."""
    moved: str = ""
    """The new name of a catalogue that could not be opened; empty: none was renamed."""

    @property
    def is_complete(self) -> bool:
        """Whether everything could be recovered."""
        return not self.damaged and all(finding.outcome in {"recovered", "older"} for finding in self.findings)


@dataclass(frozen=True)
class _Candidate:
    payload: StoredPayload
    footer: Footer
    needs: _Needs


@dataclass(frozen=True)
class _Needs:
    """The other payloads that a payload needs."""

    references: tuple[Locator, ...] = ()
    """Those that its chunk table names."""
    bases: tuple[Locator, ...] = ()
    """Those that its base section names."""


class _Found:
    """The payloads that were found, compared with the keys of intact rows."""

    def __init__(self, intact: set[str]) -> None:
        """Start with none; `intact` are the keys of intact rows."""
        self.failed_packs: set[str | None] = set()
        """Packs with a payload whose footer cannot be read."""
        self._by_name = {key.rpartition("/")[2]: key for key in intact}
        self._missing = set(intact)
        self._copies: dict[str, StoredPayload] = {}

    def note(self, payload: StoredPayload) -> bool:
        """Return whether an intact row has this payload, or another copy of it."""
        known = self._by_name.get(payload.payload_key or payload.key.rpartition("/")[2])
        if known is None:
            return False
        if payload.key == known:
            self._missing.discard(known)
        elif payload.pack is not None:
            # The newest packs come first.
            self._copies.setdefault(known, payload)
        return payload.key == known or payload.pack is not None

    def copies(self) -> Iterator[tuple[str, StoredPayload]]:
        """Yield the keys in packs of intact rows whose payloads were not found, each with a copy that was."""
        for key in sorted(self._missing & self._copies.keys()):
            if isinstance(parse_key(key), PackedKey):
                yield key, self._copies[key]


def recover(source: RecoverySource, catalogue: Catalogue, *, moved: str = "") -> Recovery:
    """Recover missing rows. No other process may use the store meanwhile.

    Args:
        source: the payloads of the store.
        catalogue: its catalogue.
        moved: the new name of an old catalogue that could not be opened, for the report.
    """
    recovery = Recovery(moved=moved)
    intact, damaged = _rows(catalogue)
    found = _Found(intact)
    newest: dict[tuple[str, str], _Candidate] = {}
    for candidate in _candidates(source, catalogue, found, damaged, recovery):
        place = candidate.footer.dataset, candidate.footer.id
        other = newest.setdefault(place, candidate)
        if other is candidate:
            continue
        if other.footer.payload_key == candidate.footer.payload_key:
            # A copy of it, in the pack from which it was moved.
            continue
        older, newer = sorted((candidate, other), key=lambda one: one.footer.sealed_us)
        recovery.findings.append(
            Finding(older.payload.place, "older", *place, "another payload of this id was sealed later")
        )
        newest[place] = newer
    _add_packs(source, catalogue, found)
    recovery.repaired = _repair(catalogue, found)
    # In the order of the original commits, so that generations and ordinals ascend as they did.
    for candidate in sorted(newest.values(), key=lambda one: one.footer.sealed_us):
        recovery.findings.append(_recovered(source, catalogue, candidate, damaged, recovery))
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
    source: RecoverySource,
    catalogue: Catalogue,
    found: _Found,
    damaged: dict[tuple[str, str], int],
    recovery: Recovery,
) -> Iterator[_Candidate]:
    """Yield payloads without an intact row whose footers and chunk indexes are intact; report the others."""

    def failed(place: str, reason: str) -> None:
        recovery.findings.append(Finding(place, "failed", reason=reason))

    for payload in source.payloads(failed):
        if found.note(payload):
            recovery.known += 1
            continue
        try:
            footer, needs = _footer(source, payload)
        except (*_UNREADABLE, ValueError, LookupError, TypeError) as error:
            failed(payload.place, str(error))
            found.failed_packs.add(payload.pack)
            continue
        if payload.key not in catalogue.garbage.orphans([payload.key]) and (footer.dataset, footer.id) not in damaged:
            # A tombstone refers to it: it was deleted, and the sweep will remove it.
            recovery.known += 1
            continue
        yield _Candidate(payload, footer, needs)


def _footer(source: RecoverySource, payload: StoredPayload) -> tuple[Footer, _Needs]:
    """Return the footer of a payload, and the other payloads that it needs.

    Raises:
        FooterError: the footer, the chunk index, the chunk table or the base section is damaged.
    """
    with source.open(payload) as reader:
        footer = read_footer(reader.read, reader.length)
        needs = _needs(reader.read, footer.payload_bytes, footer.fields["index_length"], footer.fields["index_crc32c"])
    if payload.payload_key not in {None, footer.payload_key}:
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
    source: RecoverySource,
    catalogue: Catalogue,
    candidate: _Candidate,
    damaged: dict[tuple[str, str], int],
    recovery: Recovery,
) -> Finding:
    footer, place = candidate.footer, (candidate.footer.dataset, candidate.footer.id)
    at = candidate.payload.place
    try:
        dataset = _dataset(catalogue, footer.dataset, recovery)
        if place not in damaged:
            (found,) = catalogue.tensors.get(footer.dataset, [footer.id])
            if isinstance(found, Tensor):
                reason = f"the catalogue has generation {found.generation} of this id, with another payload"
                return Finding(at, "kept", *place, reason)
        bases_of_others = _restore_needed(source, candidate.needs)
        key = source.restore(candidate.payload, footer.payload_key)
        stored = replace(
            footer.stored_tensor(dataset, key, if_generation_match=damaged.get(place)),
            references=tuple(payload.key for payload in candidate.needs.references),
            bases=tuple(payload.key for payload in candidate.needs.bases),
            bases_of_others=bases_of_others,
        )
        (outcome,) = catalogue.tensors.commit([stored])
        if isinstance(outcome, Exception):
            raise outcome
    except (EngineError, *_UNREADABLE, ValueError) as error:
        return Finding(at, "failed", *place, str(error))
    damaged.pop(place, None)
    return Finding(at, "recovered", *place)


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


def _restore_needed(source: RecoverySource, needs: _Needs) -> tuple[tuple[str, str], ...]:
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
        with source.open_needed(payload.key) as reader:
            bases = _needs(reader.read, payload.length, payload.index_length, payload.index_crc32c).bases
        pairs += [(base.key, payload.key) for base in bases]
        waiting += bases
    return tuple(pairs)


def _add_packs(source: RecoverySource, catalogue: Catalogue, found: _Found) -> None:
    """Let the sweep look after the packs. One with a payload that cannot be read is never deleted."""
    packs = {pack: 0 if pack in found.failed_packs else size for pack, size in source.packs().items()}
    if packs:
        catalogue.packs.add(packs)


def _repair(catalogue: Catalogue, found: _Found) -> int:
    """Let rows of an older catalogue read payloads from the packs that these were moved to; return how many payloads."""
    moves = [(key, copy.key) for key, copy in found.copies()]
    return sum(len(catalogue.packs.repoint(moves[start : start + _PAGE])) for start in range(0, len(moves), _PAGE))

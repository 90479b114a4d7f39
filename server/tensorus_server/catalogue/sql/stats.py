"""Sums over the tensors of a dataset, computed from verified rows.

Every row is read and its checksum verified; sums in SQL would include the values of damaged rows. Rows whose summed columns are
all the same are merely counted, and multiplied at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tensorus_protos.rules import to_json
from tensorus_server.catalogue.sql.dataset_rows import dataset_number
from tensorus_server.catalogue.sql.reading import rows_by_generation
from tensorus_server.catalogue.sql.rows import RowDamageError, verified
from tensorus_server.catalogue.sql.states import rows_at
from tensorus_server.catalogue.sql.unique_sizes import UniqueSizes
from tensorus_server.model import DatasetStats, DTypeShare, EncodingShare

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tensorus_server.catalogue.sql.rows import Alike
    from tensorus_server.catalogue.sql.transactions import Transactions
    from tensorus_server.errors import DataCorruptError

__all__ = ["sum_up"]

_DAMAGES_MAX = 100
"""Largest number of damaged tensors that are named."""

_ENCODINGS_MAX = 1000
"""Far more than a dataset has, unless a codec's settings differ from tensor to tensor."""


def sum_up(database: Transactions, name: str, at: int | None) -> DatasetStats:
    """Return sums over the dataset's tensors; tensors that are inserted or deleted meanwhile may or may not be included.

    Args:
        at: the generation of the state to sum up, whose tensors are all included; None: the current one.

    Raises:
        DatasetNotFoundError: the dataset does not exist.
        StateNotKeptError: the state is not kept.
        DataCorruptError: none of its rows can be read.
    """
    counts: dict[int, int] = {}
    kinds: dict[int, Alike] = {}
    damages: list[DataCorruptError] = []
    unique = UniqueSizes()
    damaged = after = 0
    while True:
        # Each batch has its own transaction, because a long one would keep the log from being reset.
        with database.read() as connection:
            ds = dataset_number(connection, name)
            if at is None:
                batches = [rows_by_generation(connection, ds, name, after)]
                last = batches[0].last
            else:
                batches, last = rows_at(connection, (ds, name), after, at)
            for batch in batches:
                for row in batch.rows:
                    try:
                        kind = verified(row, ds)
                    except RowDamageError as error:
                        batch.damage(row, error)
                        continue
                    # By identity, which is fast: rows with the same columns share one cached object.
                    number = id(kind)
                    kinds[number] = kind
                    counts[number] = counts.get(number, 0) + 1
                    unique.add(row)
        for batch in batches:
            damaged += len(batch.damages)
            damages += batch.damages[: _DAMAGES_MAX - len(damages)]
        if last is None:
            break
        after = last
    return _stats([(kind, counts[number]) for number, kind in kinds.items()], unique, damages, damaged)


def _stats(
    kinds: list[tuple[Alike, int]], unique: UniqueSizes, damages: list[DataCorruptError], damaged: int
) -> DatasetStats:
    reports = [(kind.storage, count) for kind, count in kinds]
    canonical_bytes = sum(report.canonical_bytes * count for report, count in reports)
    stored_bytes = sum(report.stored_bytes * count for report, count in reports)
    repeated_bytes, repeated_stored_bytes = unique.repeated()
    return DatasetStats(
        tensors=sum(count for _, count in kinds),
        lossy_tensors=sum(count for report, count in reports if report.lossy),
        canonical_bytes=canonical_bytes,
        quantized_bytes=sum(report.quantized_bytes * count for report, count in reports),
        stored_bytes=stored_bytes,
        worst_relative_error=max((report.relative_error for report, _ in reports), default=0.0),
        worst_max_absolute_error=max((report.max_absolute_error for report, _ in reports), default=0.0),
        dtypes=_dtype_shares(kinds),
        encodings=_encoding_shares(kinds),
        damages=tuple(damages),
        damaged_tensors=damaged,
        unique_bytes=canonical_bytes - repeated_bytes,
        unique_stored_bytes=stored_bytes - repeated_stored_bytes,
    )


def _dtype_shares(kinds: Iterable[tuple[Alike, int]]) -> tuple[DTypeShare, ...]:
    sums: dict[str, list[int]] = {}
    for kind, count in kinds:
        of_dtype = sums.setdefault(kind.spec.dtype.name, [0, 0, 0])
        for place, amount in enumerate((1, kind.storage.canonical_bytes, kind.storage.stored_bytes)):
            of_dtype[place] += amount * count
    return tuple(DTypeShare(name, *sums[name]) for name in sorted(sums))


def _encoding_shares(kinds: Iterable[tuple[Alike, int]]) -> tuple[EncodingShare, ...]:
    encodings: dict[str, tuple[dict[str, Any], ...]] = {}
    sums: dict[str, list[int]] = {}
    for kind, count in kinds:
        for share in kind.storage.encodings:
            # Equal encodings have equal JSON.
            text = to_json(share.encoding)
            encodings[text] = share.encoding
            of_encoding = sums.setdefault(text, [0, 0, 0])
            for place, amount in enumerate((share.chunks, share.canonical_bytes, share.stored_bytes)):
                of_encoding[place] += amount * count
    largest_first = sorted(sums, key=lambda text: (-sums[text][2], text))
    return tuple(EncodingShare(encodings[text], *sums[text]) for text in largest_first[:_ENCODINGS_MAX])

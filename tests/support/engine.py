"""The engine the short way: inserts and reads in one call, and tensors for a catalogue that have no bytes behind them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from support.arrays import canonical
from tensorus_codecs.dtypes import DType, dtype_by_name
from tensorus_codecs.policy import StoragePolicy
from tensorus_codecs.summary import ValueSummary
from tensorus_server.catalogue.abc import Catalogue, PageRequest, StoredTensor
from tensorus_server.catalogue.sql.statements import select
from tensorus_server.catalogue.sqlite import SqliteCatalogue
from tensorus_server.chunk_store.abc import new_payload_key
from tensorus_server.chunk_store.files import Files
from tensorus_server.chunk_store.local import LocalChunkStore, Reserve
from tensorus_server.engine.codec_pool import CodecPool
from tensorus_server.engine.engine import Engine
from tensorus_server.engine.insert.stream import InsertStream, ItemProgress, ItemResult
from tensorus_server.engine.orphans import quarantine_orphans
from tensorus_server.engine.read.reader import Piece, ReadPlan
from tensorus_server.errors import DataCorruptError
from tensorus_server.filter.tree import Filter
from tensorus_server.model import (
    Checksum,
    Dataset,
    Locator,
    NewTensor,
    Part,
    Read,
    Segment,
    StorageReport,
    Tensor,
    TensorSpec,
)

RAW_RECORD_OVERHEAD = 21
"""Bytes of a raw chunk's record before its canonical bytes."""

INDEX_ENTRY_BYTES = 8
"""Bytes of the chunk index, per chunk."""

_digests = itertools.count(1)

_PURGE_TIMEOUT_S = 30


@contextmanager
def engine_on(
    folder: Path,
    *,
    files: Files | None = None,
    reserve: Reserve | None = None,
    delete_grace_s: float = 3600.0,
    upload_expiry_s: float = 3600.0,
    sweeps: bool = False,
) -> Iterator[Engine]:
    """Open an engine in `folder` whose files, reserve and grace are the test's.

    Args:
        sweeps: also by itself. Where a test sweeps and then looks, either of two sweeps may have done the work.
    """
    folder.mkdir(exist_ok=True)
    chunk_store = LocalChunkStore(folder, reserve=reserve, files=files)
    catalogue = SqliteCatalogue(
        folder, payloads=chunk_store, delete_grace_s=delete_grace_s, upload_expiry_s=upload_expiry_s
    )
    engine = Engine(catalogue, chunk_store, CodecPool(2), sweeps=sweeps)
    try:
        yield engine
    finally:
        engine.close()


def listed(catalogue: Catalogue) -> list[Dataset | DataCorruptError]:
    """Return the datasets of a catalogue, as they are listed."""
    page = catalogue.datasets.page(0, 1000)
    assert page.next is None
    return [found for _, found in page.datasets]


def purge(catalogue: Catalogue) -> int:
    """Remove the tensors of deleted datasets without a pause, and return how many there were."""
    return catalogue.datasets.purge(lambda _: False)


def wait_for_purge(engine: Engine) -> None:
    """Wait until nothing of deleted datasets is in the catalogue, whoever purges it."""
    catalogue = engine._catalogue
    assert isinstance(catalogue, SqliteCatalogue)
    deadline_s = time.monotonic() + _PURGE_TIMEOUT_S
    while True:
        purge(catalogue)
        with catalogue._database.read() as connection:
            if not select(connection, "SELECT 1 FROM dataset WHERE deleted_us IS NOT NULL"):
                return
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def set_aside_now(engine: Engine) -> int:
    """Move to quarantine what no row knows, however young it is, and return how many payloads that were."""
    return quarantine_orphans(
        engine._catalogue,
        engine._chunk_store,
        engine._chunk_store.quarantine,
        # The clock that stamps files is behind the one that processes ask, or ahead of it.
        older_than_s=-60.0,
        quarantine_s=3600.0,
        uncommitted=lambda: engine._committer.uncommitted,
    ).moved


class Reports:
    """What a stream said of each item; refuses to hear the result of one twice."""

    def __init__(self) -> None:
        """Start with none."""
        self.outcomes: dict[int, Tensor | Exception] = {}
        self.committed_bytes: dict[int, int] = {}

    def __call__(self, results: Sequence[ItemResult | ItemProgress]) -> None:
        """Take a report, as `InsertStream` gives it."""
        for result in results:
            if isinstance(result, ItemProgress):
                assert result.committed_bytes > self.committed_bytes.get(result.item, 0), "progress goes back"
                self.committed_bytes[result.item] = result.committed_bytes
                continue
            assert result.item not in self.outcomes, f"item {result.item} was reported twice"
            self.outcomes[result.item] = result.outcome

    def tensor(self, item: int) -> Tensor:
        """Return the tensor that an item became."""
        outcome = self.outcomes[item]
        assert isinstance(outcome, Tensor), outcome
        return outcome

    def error(self, item: int) -> Exception:
        """Return why an item became none."""
        outcome = self.outcomes[item]
        assert isinstance(outcome, Exception), outcome
        return outcome


def spec_of(array: np.ndarray[Any, Any]) -> TensorSpec:
    """Return an array's dtype and shape as the engine names them."""
    return TensorSpec(dtype_by_name(array.dtype.name), array.shape)


def announce(tensor_id: str, array: np.ndarray[Any, Any], **fields: Any) -> NewTensor:
    """Return what announces `array`; `fields` as those of `NewTensor`."""
    return NewTensor(id=tensor_id, spec=spec_of(array), **{"metadata": {}, **fields})


def send(
    stream: InsertStream,
    item: int,
    tensor_id: str,
    array: np.ndarray[Any, Any],
    *,
    cuts: Sequence[int] = (),
    last_checksum: Checksum | None = None,
    **fields: Any,
) -> None:
    """Send one array as an item, cut at the byte offsets `cuts`."""
    data = memoryview(canonical(array))
    bounds = [0, *cuts, data.nbytes]
    for number, (begin, end) in enumerate(itertools.pairwise(bounds)):
        new = announce(tensor_id, array, **fields) if number == 0 else None
        last = number == len(bounds) - 2
        stream.receive(
            Segment(item, begin, end - begin, last, new, last_checksum if last else None), memoryview(data[begin:end])
        )


def insert(engine: Engine, dataset: str, tensor_id: str, array: np.ndarray[Any, Any], **fields: Any) -> Tensor:
    """Insert one array in a stream of its own and return the tensor; raises what its item failed with."""
    reports = Reports()
    stream = engine.open_insert(dataset, reports)
    preset = fields.pop("preset", None)
    if preset is not None:
        fields["policy"] = StoragePolicy(preset=preset)
    send(stream, 0, tensor_id, array, **fields)
    stream.finish()
    outcome = reports.outcomes[0]
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def find(engine: Engine, dataset: str, tensor_id: str, *, generation: int | None = None) -> Tensor:
    """Return a tensor with what reading it takes; raises why there is none."""
    (found,) = engine.find(dataset, [Read(tensor_id, generation=generation)], with_payloads=True)
    if isinstance(found, Exception):
        raise found
    return found


def pieces_of(
    engine: Engine, tensor: Tensor, part: Part = None, accepted_codecs: frozenset[str] = frozenset(), **limits: int
) -> list[Piece]:
    """Return all pieces of a read."""
    return list(engine.reader.read(tensor, ReadPlan(tensor, part), accepted_codecs, **limits))


def read(engine: Engine, dataset: str, tensor_id: str, part: Part = None) -> np.ndarray[Any, Any]:
    """Return a tensor, or a part of it, as an array; refuses pieces that overlap or leave holes."""
    tensor = find(engine, dataset, tensor_id)
    return assemble(ReadPlan(tensor, part).result, pieces_of(engine, tensor, part))


def assemble(result: TensorSpec, pieces: Sequence[Piece]) -> np.ndarray[Any, Any]:
    """Put pieces of canonical bytes together, each byte exactly once."""
    filled = np.zeros(result.canonical_bytes, np.uint8)
    times = np.zeros(result.canonical_bytes, np.uint8)
    for piece in pieces:
        assert piece.codec_ids == ()
        data = np.frombuffer(piece.data, np.uint8)
        assert data.size == piece.decoded_length
        filled[piece.offset : piece.offset + data.size] = data
        times[piece.offset : piece.offset + data.size] += 1
    assert (times == 1).all()
    return filled.view(result.dtype.numpy).reshape(result.shape)


def stored_tensor(
    dataset: Dataset,
    tensor_id: str,
    *,
    metadata: Mapping[str, Any] | None = None,
    dtype: DType | str = "uint8",
    shape: tuple[int, ...] = (4,),
    source: bytes | None = None,
    stored_bytes: int = 40,
    lossy: bool = False,
    values: ValueSummary | None = None,
    policy: StoragePolicy | None = None,
    inline_payload: bytes | None = None,
    key: str | None = None,
    source_crc32c: int = 0,
    upload: tuple[str, int] | None = None,
    if_generation_match: int | None = None,
    **report: Any,
) -> StoredTensor:
    """Return a tensor that is ready for its commit; nothing lies behind its locator.

    Args:
        source: the source checksum; None: one that no other tensor has.
        report: fields of `StorageReport`.
    """
    spec = TensorSpec(dtype_by_name(dtype) if isinstance(dtype, str) else dtype, shape)
    checksum = Checksum("xxh3_128", source or next(_digests).to_bytes(16, "big"))
    fields: dict[str, Any] = {
        "canonical_bytes": spec.canonical_bytes,
        "quantized_bytes": spec.canonical_bytes,
        "stored_bytes": stored_bytes,
        "relative_error": 0.0,
        "max_absolute_error": 0.0,
        "lossy": lossy,
        "encodings": (),
        "fallback_reason": "",
    }
    return StoredTensor(
        dataset=dataset,
        new=NewTensor(tensor_id, spec, dict(metadata or {}), policy, if_generation_match=if_generation_match),
        chunk_bytes=1024 * 1024,
        source_checksum=checksum,
        value_checksum=checksum,
        storage=StorageReport(**(fields | report)),
        values=values,
        locator=Locator(key or new_payload_key(), 0, stored_bytes, 8, 7),
        inline_payload=inline_payload,
        source_crc32c=source_crc32c,
        upload=upload,
    )


def commit(catalogue: Catalogue, *group: StoredTensor) -> list[Tensor]:
    """Commit a group of which every tensor must become visible."""
    outcomes = catalogue.tensors.commit(group)
    tensors = [outcome for outcome in outcomes if isinstance(outcome, Tensor)]
    assert len(tensors) == len(group), outcomes
    return tensors


def create(catalogue: Catalogue, name: str = "dataset", **fields: Any) -> Dataset:
    """Create a dataset of the default policy that takes anything."""
    from tensorus_server.model import Schema  # noqa: PLC0415 - a default that nobody else here needs

    policy, schema = fields.get("policy", StoragePolicy()), fields.get("schema", Schema())
    return catalogue.datasets.create(name, policy, schema, fields.get("retention_s", 0))


Reopen = Callable[..., Catalogue]
"""Closes a catalogue and opens the same store again; takes `delete_grace_s` and `upload_expiry_s`."""


def ids_of(catalogue: Catalogue, dataset: str, filter_: Filter | None = None) -> list[str]:
    """Return the ids that a filter finds, in the order of their commits."""
    page = catalogue.tensors.page(dataset, PageRequest(filter_, size=1000))
    assert page.next is None
    return [tensor.id for tensor in page.tensors]


def three_tensors(catalogue: Catalogue, dataset_name: str = "dataset") -> list[Tensor]:
    """Store tensors a, b and c, of which the tests damage the second."""
    dataset = create(catalogue, dataset_name)
    values = ValueSummary(-1.0, 2.0, 0.5, 1.5, 3.0, 0, 0, 0)
    return commit(
        catalogue,
        *(stored_tensor(dataset, name, source=b"s" * 16, metadata={"a": 1}, values=values) for name in ("a", "b", "c")),
    )

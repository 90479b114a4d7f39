"""An engine does for ever what a dict would: a state machine of inserts, reads, queries, deletions, sweeps and reopenings."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from contract.chunk_store_contract import published
from support.arrays import canonical, normal, random_bits
from support.engine import Reports, announce, find, insert, read, send, set_aside_now, wait_for_purge
from support.filters import matches
from support.servers import engine_config
from support.stores import few_shards
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.app import open_engine
from tensorus_server.catalogue.abc import Order
from tensorus_server.engine.engine import Engine
from tensorus_server.engine.insert.stream import InsertOptions
from tensorus_server.engine.query import Query
from tensorus_server.errors import (
    AlreadyExistsError,
    DatasetNotFoundError,
    StoredDifferentlyError,
    StoreUnavailableError,
    TensorNotFoundError,
)
from tensorus_server.filter.tree import (
    AllOf,
    AnyOf,
    Compare,
    Dimension,
    Exists,
    Filter,
    Key,
    Not,
    Operator,
    Prefix,
    Property,
)
from tensorus_server.model import ByteRange, Segment, SliceSet, Tensor

DATASETS = ["one", "two"]
IDS = ["a", "b", "a/b", "ä"]
PRESETS = ["none", "fast", "lossless", "maximum"]

ARRAYS = {
    "scalar": np.array(7, np.int16),
    "empty": np.zeros((0, 3), np.float32),
    "small": normal((5, 7)),
    "several chunks": normal((40, 130)),
    "a file": random_bits("uint8", (300, 300)),
    "the same shape, other values": random_bits("uint8", (300, 300), seed=1),
}

metadata = st.dictionaries(
    st.sampled_from(["k", "l"]),
    st.one_of(st.integers(-2, 2), st.sampled_from(["x", "xy", "z"]), st.booleans(), st.none(), st.just([1, "x"])),
    max_size=2,
)
filters: st.SearchStrategy[Filter] = st.recursive(
    st.sampled_from(
        [
            Compare(Key("k"), Operator.GREATER_OR_EQUAL, 0),
            Compare(Key("k"), Operator.NOT_EQUAL, "x"),
            Exists(Key("l")),
            Prefix(Key("l"), "x"),
            Compare(Property.NBYTES, Operator.LESS, 1000),
            Compare(Property.DTYPE, Operator.EQUAL, "float32"),
            Compare(Property.ID, Operator.GREATER, "a"),
            Compare(Dimension(0), Operator.EQUAL, 300),
        ]
    ),
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(lambda *both: AllOf(both), inner, inner),
        st.builds(lambda *both: AnyOf(both), inner, inner),
    ),
    max_leaves=3,
)
index_slices = st.builds(slice, st.integers(-310, 310), st.integers(-310, 310), st.sampled_from([1, 1, 2, 50, -1, -7]))


@dataclass
class Known:
    """What the model knows of one tensor."""

    tensor: Tensor
    sent: np.ndarray[Any, Any]
    """What was inserted; what is read is this, or, where it was quantized, what the first read gave."""
    values: np.ndarray[Any, Any] | None = field(default=None)


class EngineMachine(RuleBasedStateMachine):
    """The engine beside a dict of datasets, each a dict of tensors in the order of their commits."""

    folder: ClassVar[Path]
    """Of the store, which all runs share. Each begins by deleting everything."""

    def __init__(self) -> None:
        """Open the engine; the payloads of deleted tensors are due at once."""
        super().__init__()
        self.config = engine_config(self.folder / "store", codec_threads=2, delete_grace_s=0.0)
        self.engine: Engine = open_engine(self.config)
        for dataset in self.engine.list_datasets()[0]:
            self.engine.delete_dataset(dataset.name)
        self.model: dict[str, dict[str, Known]] = {}
        self.generation = 0
        self.changed = False
        """Whether anything was since the last reopening."""
        self.orphans: set[str] = set()
        """Payloads that a crash left."""
        self.engine.empty_quarantine()

    def teardown(self) -> None:
        """Look once more at everything, and close."""
        try:
            self.everything_can_be_read()
            self.nothing_lies_about()
        finally:
            self.engine.close()

    @initialize(presets=st.lists(st.sampled_from(PRESETS), min_size=2, max_size=2))
    def begin_with_both_datasets(self, presets: list[str]) -> None:
        """Create both, so that most steps have something to work on."""
        for dataset, preset in zip(DATASETS, presets, strict=True):
            self.create_dataset(dataset, preset)

    @rule(dataset=st.sampled_from(DATASETS), preset=st.sampled_from(PRESETS))
    def create_dataset(self, dataset: str, preset: str) -> None:
        """Create it, unless it is there."""
        if dataset in self.model:
            with pytest.raises(AlreadyExistsError):
                self.engine.create_dataset(dataset)
            return
        # Chunks of 4 KiB, so that small arrays have several.
        self.engine.create_dataset(dataset, StoragePolicy(preset=preset, chunk_bytes=4096))
        self.model[dataset] = {}

    @precondition(lambda self: sum(map(len, self.model.values())) >= 4 or len(self.model) < len(DATASETS))
    @rule(dataset=st.sampled_from(DATASETS))
    def delete_dataset(self, dataset: str) -> None:
        """Delete it with all its tensors, if it is there; not before there is something to lose."""
        if dataset not in self.model:
            with pytest.raises(DatasetNotFoundError):
                self.engine.delete_dataset(dataset)
            return
        assert self.engine.delete_dataset(dataset) == len(self.model.pop(dataset))

    @rule(
        dataset=st.sampled_from(DATASETS),
        name=st.sampled_from(IDS),
        kind=st.sampled_from(list(ARRAYS)),
        fields=metadata,
        preset=st.one_of(st.none(), st.sampled_from(PRESETS)),
    )
    def insert(self, dataset: str, name: str, kind: str, fields: dict[str, Any], preset: str | None) -> None:
        """Insert a tensor: new, the same again, or another one under an id that is taken."""
        array = ARRAYS[kind]
        if dataset not in self.model:
            with pytest.raises(DatasetNotFoundError):
                insert(self.engine, dataset, name, array)
            return
        known = self.model[dataset].get(name)
        if known is None:
            policy = None if preset is None else StoragePolicy(preset=preset, chunk_bytes=8192)
            tensor = insert(self.engine, dataset, name, array, metadata=fields, policy=policy)
            assert tensor.generation > self.generation
            self.generation, self.changed = tensor.generation, True
            self.model[dataset][name] = Known(tensor, array)
        elif known.sent is array and self._keeps(dataset, known, fields):
            assert insert(self.engine, dataset, name, array, metadata=fields) == known.tensor
        elif known.sent is array:
            with pytest.raises(StoredDifferentlyError):
                insert(self.engine, dataset, name, array, metadata=fields)
        else:
            with pytest.raises(AlreadyExistsError):
                insert(self.engine, dataset, name, array, metadata=fields)

    @precondition(lambda self: self.model)
    @rule(data=st.data(), kind=st.sampled_from(list(ARRAYS)), fields=metadata)
    def insert_new(self, data: st.DataObject, kind: str, fields: dict[str, Any]) -> None:
        """Insert a tensor under an id that is free, where there is one: most inserts are of this kind."""
        free = [(dataset, name) for dataset, tensors in self.model.items() for name in IDS if name not in tensors]
        if free:
            dataset, name = data.draw(st.sampled_from(free))
            self.insert(dataset, name, kind, fields, None)

    @rule(dataset=st.sampled_from(DATASETS), names=st.lists(st.sampled_from(IDS), min_size=2, max_size=5))
    def insert_many(self, dataset: str, names: list[str]) -> None:
        """Insert several in one stream; of twins the first one counts."""
        if dataset not in self.model:
            return
        reports = Reports()
        stream = self.engine.open_insert(dataset, reports)
        for item, name in enumerate(names):
            send(stream, item, name, ARRAYS["small"])
        stream.finish()
        for item, name in enumerate(names):
            known = self.model[dataset].get(name)
            if known is not None and known.sent is not ARRAYS["small"]:
                assert isinstance(reports.error(item), AlreadyExistsError)
            elif known is not None and not self._keeps(dataset, known, {}):
                assert isinstance(reports.error(item), StoredDifferentlyError)
            elif known is not None:
                assert reports.tensor(item) == known.tensor
            else:
                self.model[dataset][name] = Known(reports.tensor(item), ARRAYS["small"])
                self.generation = reports.tensor(item).generation

    @rule(dataset=st.sampled_from(DATASETS), name=st.sampled_from(IDS), kind=st.sampled_from(["small", "a file"]))
    def begin_and_abort(self, dataset: str, name: str, kind: str) -> None:
        """Send all of a tensor but its end, and go away: nothing becomes of it."""
        if dataset not in self.model:
            return
        reports = Reports()
        stream = self.engine.open_insert(dataset, reports)
        data = memoryview(canonical(ARRAYS[kind]))[:-1]
        stream.receive(Segment(0, 0, data.nbytes, last=False, tensor=announce(name, ARRAYS[kind])), data)
        stream.abort()
        assert reports.outcomes == {}

    @rule(dataset=st.sampled_from(DATASETS), name=st.sampled_from(IDS))
    def get(self, dataset: str, name: str) -> None:
        """Read a whole tensor."""
        known = self._known(dataset, name)
        if known is not None:
            self._check_values(dataset, name, known)

    @rule(dataset=st.sampled_from(DATASETS), name=st.sampled_from(IDS), rows=index_slices, columns=index_slices)
    def get_slice(self, dataset: str, name: str, rows: slice, columns: slice) -> None:
        """Read a slice of a tensor, as NumPy would."""
        known = self._known(dataset, name)
        if known is None:
            return
        values = self._check_values(dataset, name, known)
        axes = (rows, columns)[: values.ndim]
        assert np.array_equal(read(self.engine, dataset, name, SliceSet(axes)), values[axes])

    @rule(
        dataset=st.sampled_from(DATASETS), name=st.sampled_from(IDS), share=st.floats(0, 1), length=st.integers(0, 9000)
    )
    def get_bytes(self, dataset: str, name: str, share: float, length: int) -> None:
        """Read a run of a tensor's bytes."""
        known = self._known(dataset, name)
        if known is None:
            return
        data = self._check_values(dataset, name, known).tobytes()
        begin = int(share * len(data))
        length = min(length, len(data) - begin)
        assert read(self.engine, dataset, name, ByteRange(begin, length)).tobytes() == data[begin : begin + length]

    @rule(dataset=st.sampled_from(DATASETS), filter_=filters, descending=st.booleans(), limit=st.integers(0, 3))
    def query(self, dataset: str, filter_: Filter, *, descending: bool, limit: int) -> None:
        """Ask for the tensors that a filter finds."""
        if dataset not in self.model:
            with pytest.raises(DatasetNotFoundError):
                self.engine.select(Query(dataset, filter_), with_payloads=False)
            return
        expected = [known.tensor for known in self.model[dataset].values() if matches(filter_, known.tensor)]
        if descending:
            expected.reverse()
        query = Query(dataset, filter_, Order(descending=descending))
        assert list(self.engine.select(query, with_payloads=False)) == expected
        query = Query(dataset, filter_, Order(descending=descending), limit)
        assert list(self.engine.select(query, with_payloads=False)) == expected[:limit]
        sampled = self.engine.select(Query(dataset, filter_, sample=100), with_payloads=False)
        assert sorted(tensor.generation for tensor in sampled) == sorted(tensor.generation for tensor in expected)

    @rule(dataset=st.sampled_from(DATASETS), size=st.integers(1, 3), field=st.sampled_from(["id", "nbytes"]))
    def list_tensors(self, dataset: str, size: int, field: str) -> None:
        """List all tensors, page by page."""
        if dataset not in self.model:
            return
        found, token = [], ""
        while True:
            page, token = self.engine.list_tensors(dataset, None, Order(field), page_size=size, page_token=token)
            found += page
            if not token:
                break
        keys = {
            "id": lambda tensor: (tensor.id.encode(), 0),
            "nbytes": lambda tensor: (tensor.storage.canonical_bytes, tensor.generation),
        }
        assert found == sorted((known.tensor for known in self.model[dataset].values()), key=keys[field])

    @rule(dataset=st.sampled_from(DATASETS), name=st.sampled_from(IDS), fields=metadata)
    def update_metadata(self, dataset: str, name: str, fields: dict[str, Any]) -> None:
        """Replace a tensor's metadata."""
        known = self._known(dataset, name)
        if known is not None:
            known.tensor = self.engine.update_metadata(dataset, name, fields)
            self.changed = True
            assert known.tensor.metadata == fields

    @rule(dataset=st.sampled_from(DATASETS), names=st.lists(st.sampled_from(IDS), max_size=3))
    def delete(self, dataset: str, names: list[str]) -> None:
        """Delete tensors, some of which may not be there."""
        if dataset not in self.model:
            with pytest.raises(DatasetNotFoundError):
                self.engine.delete_tensors(dataset, names)
            return
        expected = [name for name in dict.fromkeys(names) if name in self.model[dataset]]
        assert self.engine.delete_tensors(dataset, names) == expected
        self.changed = bool(expected) or self.changed
        for name in expected:
            del self.model[dataset][name]

    @precondition(lambda self: self.changed)
    @rule()
    def sweep(self) -> None:
        """Remove what nobody needs."""
        self.engine.sweep()

    @precondition(lambda self: self.changed)
    @rule()
    def list_unknown(self) -> None:
        """Look for payloads that nothing has: as long as nothing crashes there is none."""
        assert set_aside_now(self.engine) == 0

    @precondition(lambda self: self.changed)
    @rule(count=st.integers(1, 3))
    def crash_before_a_commit(self, count: int) -> None:
        """Leave payloads as a crash between publishing and commit does: a listing sets them aside, and a sweep does not."""
        left = {published(self.engine._chunk_store, b"never committed") for _ in range(count)}
        self.engine.sweep()
        assert left <= self._files()
        assert set_aside_now(self.engine) == count
        assert not left & self._files()
        self.orphans |= left
        assert self.orphans <= {entry.key for entry in self.engine.quarantine.entries()}

    @precondition(lambda self: self.orphans)
    @rule()
    def restore_from_quarantine(self) -> None:
        """Take a payload back: it is where it was until the next listing."""
        entry = next(entry for entry in self.engine.quarantine.entries() if entry.key in self.orphans)
        self.engine.quarantine.restore(entry)
        assert entry.key in self._files()
        assert set_aside_now(self.engine) == 1

    @precondition(lambda self: self.changed)
    @rule()
    def crash_and_restore(self) -> None:
        """Kill the process, so to speak, and go on with a copy of its files: without the log it is refused."""
        self.changed = False
        copy = self.folder / "copy"
        shutil.copytree(self.folder / "store", copy)
        self.engine.close()
        log = copy / "catalogue.db-wal"
        held = log.read_bytes()
        for path in (log, copy / "catalogue.db-shm"):
            path.unlink()
        if held:
            with pytest.raises(StoreUnavailableError, match="is not opened, so that nothing of it is lost"):
                open_engine(engine_config(copy))
        log.write_bytes(held)
        shutil.rmtree(self.folder / "store")
        copy.rename(self.folder / "store")
        self.engine = open_engine(self.config)

    @precondition(lambda self: self.changed)
    @rule()
    def reopen(self) -> None:
        """Close the engine and open the same store."""
        self.changed = False
        self.engine.close()
        self.engine = open_engine(self.config)

    @invariant()
    def datasets_are_those_of_the_model(self) -> None:
        """Compare names, and the sums over their tensors."""
        assert [dataset.name for dataset in self.engine.list_datasets()[0]] == list(self.model)
        for dataset, tensors in self.model.items():
            stats = self.engine.dataset_stats(dataset)
            assert stats.tensors == len(tensors)
            assert stats.canonical_bytes == sum(known.sent.nbytes for known in tensors.values())
            assert stats.stored_bytes == sum(known.tensor.storage.stored_bytes for known in tensors.values())
            assert sum(share.canonical_bytes for share in stats.encodings) == stats.canonical_bytes

    def everything_can_be_read(self) -> None:
        """Read every tensor of the model, and no other."""
        for dataset, tensors in self.model.items():
            found = list(self.engine.select(Query(dataset), with_payloads=False))
            assert found == [known.tensor for known in tensors.values()]
            for name, known in tensors.items():
                self._check_values(dataset, name, known)

    def nothing_lies_about(self) -> None:
        """After a sweep there is a file for every tensor that has one, and no other."""
        wait_for_purge(self.engine)
        self.engine.sweep()
        assert set_aside_now(self.engine) == 0
        needed = {
            known.tensor.locator.key
            for tensors in self.model.values()
            for name, known in tensors.items()
            if find(self.engine, known.tensor.dataset, name).inline_payload is None
        }
        assert self._files() == needed
        assert list((self.folder / "store" / "tmp").glob("*/*")) == []

    def _files(self) -> set[str]:
        return {f"{path.parent.name}/{path.name}" for path in (self.folder / "store" / "chunks").glob("*/*")}

    def _known(self, dataset: str, name: str) -> Known | None:
        """Return what the model knows; where it knows none, require that the engine knows none either."""
        known = self.model.get(dataset, {}).get(name)
        if known is None:
            with pytest.raises(TensorNotFoundError if dataset in self.model else DatasetNotFoundError):
                find(self.engine, dataset, name)
            return None
        assert self.engine.get_tensor(dataset, name) == known.tensor
        return known

    def _keeps(self, dataset: str, known: Known, fields: dict[str, Any]) -> bool:
        """Return whether what is stored keeps what an insert of the same values into the dataset asks for."""
        if fields and json.dumps(fields, sort_keys=True) != json.dumps(known.tensor.metadata, sort_keys=True):
            return False
        reports = Reports()
        stream = self.engine.open_insert(dataset, reports, InsertOptions(validate_only=True))
        send(stream, 0, "an id that is free", known.sent)
        stream.finish()
        would_be = reports.tensor(0)
        if not known.tensor.storage.lossy or known.tensor.value_checksum == would_be.value_checksum:
            return True
        return known.tensor.storage.relative_error <= would_be.storage.relative_error

    def _check_values(self, dataset: str, name: str, known: Known) -> np.ndarray[Any, Any]:
        """Read a tensor and compare: lossless bit by bit, quantized within its error, and always the same again."""
        found = read(self.engine, dataset, name)
        assert (found.dtype, found.shape) == (known.sent.dtype, known.sent.shape)
        if not known.tensor.storage.lossy:
            assert found.tobytes() == known.sent.tobytes()
        else:
            error = float(np.abs(found.astype(float) - known.sent.astype(float)).max())
            assert error <= known.tensor.storage.max_absolute_error * (1 + 1e-6)
            assert known.values is None or found.tobytes() == known.values.tobytes()
        known.values = found
        return found


class TestEngineMachine(EngineMachine.TestCase):  # type: ignore[name-defined, misc]  # a class that Hypothesis makes
    """Runs the machine."""

    settings = settings(
        settings.default,
        # Of 50 steps each: enough of the shortest histories, and a fraction of the time.
        max_examples=settings.default.max_examples // 3,
        stateful_step_count=50,
        suppress_health_check=[HealthCheck.too_slow],
    )

    @classmethod
    def setUpClass(cls) -> None:
        """Make the folder, of few shards: looking through all 256 takes longer than most steps."""
        cls.enterClassContext(few_shards())
        EngineMachine.folder = Path(tempfile.mkdtemp(prefix="tensorus-machine-"))

    @classmethod
    def tearDownClass(cls) -> None:
        """Remove it."""
        shutil.rmtree(EngineMachine.folder)

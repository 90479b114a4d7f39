"""Edited tensors, those with bases, and those that share payloads stay what NumPy would make of them: a state machine.

It edits, inserts with bases and without, inserts equal bytes here and in another dataset, deletes, copies and moves, makes and
drops snapshots, restores them, sweeps, and opens the store again. What snapshots have stays, too.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from support.arrays import assert_same_bits, canonical
from support.deltas import needed_payloads, next_step
from support.engine import announce, assemble, find, insert, pieces_of, read
from support.servers import engine_config
from support.stores import few_shards
from support.verifying import verified
from tensorus_codecs.checksum import TensorDigest
from tensorus_codecs.policy import StoragePolicy
from tensorus_protos.digest import ChunkedDigest
from tensorus_server.app import open_engine
from tensorus_server.engine.engine import Engine
from tensorus_server.engine.insert import edit_writer, edited_chunks
from tensorus_server.engine.query import Query
from tensorus_server.engine.read.reader import ReadPlan
from tensorus_server.model import Append, At, Checksum, Edit, Outcome, SliceSet, Tensor, TensorReference, Write

pytestmark = pytest.mark.timeout(300)

COLUMNS = 32
"""Elements of a row: 32 rows of float32 are a chunk of 4096 bytes."""

ROWS_MAX = 2500

POLICIES = {
    "raw": StoragePolicy("none", chunk_bytes=4096),
    "lossless": StoragePolicy("lossless", chunk_bytes=4096),
    "int8": StoragePolicy("int8_only", chunk_bytes=4096),
}
NAMES = ["a", "b", "c"]

names = st.sampled_from(NAMES)
rows = st.sampled_from([0, 1, 5, 31, 32, 33, 200, 900])
"""Of an insert or append: nothing, parts of chunks, whole chunks, inline payloads and files."""
FEW = [np.random.default_rng(seed).standard_normal((900, COLUMNS)).astype(np.float32) for seed in (901, 902)]
FEW.append(next_step(FEW[0], 903, 0.01))
"""Values that are inserted again and again, so that tensors share payloads. The last ones are near the first."""

few = st.integers(0, len(FEW) - 1)
datasets = st.sampled_from(["d", "d", "e"])
held = st.sampled_from([True, True, True, False])
"""Whether the edit waits in memory for the tensor's lock, or is encoded as it arrives."""


class EditsMachine(RuleBasedStateMachine):
    """The engine beside a dict of arrays, which are what was read last."""

    folder: ClassVar[Path]
    """Of the store, which all runs share. Each ends by deleting everything."""

    def __init__(self) -> None:
        """Open the engine; the payloads of deleted tensors are due at once."""
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        # So few that edits copy the records of small payloads together.
        self.patch.setattr(edited_chunks, "_PAYLOADS_SOUGHT", 6)
        self.config = engine_config(self.folder / "store", codec_threads=2, delete_grace_s=0.0)
        self.engine: Engine = open_engine(self.config)
        self.model: dict[str, np.ndarray[Any, Any]] = {}
        self.metadata: dict[str, dict[str, int]] = {}
        self.elsewhere: dict[str, np.ndarray[Any, Any]] = {}
        """Of the dataset "e", which has no snapshots."""
        self.snapshots: dict[str, tuple[dict[str, np.ndarray[Any, Any]], dict[str, dict[str, int]]]] = {}
        """Arrays and metadata of each snapshot."""
        self.seed = 0
        self.changed = False
        """Whether anything was since the last reopening."""

    def teardown(self) -> None:
        """Look once more at everything, delete it, and close: nothing is left."""
        try:
            self.sweep()
            assert verified(self.engine).damages == []
            for name in self.snapshots:
                self.engine.snapshots.drop("d", name)
            for dataset in ("d", "e"):
                self.engine.delete_tensors(dataset, NAMES)
            self.engine.sweep(in_grace=True)
            assert list(self.engine._chunk_store.published()) == []
            for dataset in ("d", "e"):
                self.engine.delete_dataset(dataset)
        finally:
            self.engine.close()
            self.patch.undo()

    @initialize(policies=st.lists(st.sampled_from(list(POLICIES)), min_size=len(NAMES), max_size=len(NAMES)))
    def begin_with_all_tensors(self, policies: list[str]) -> None:
        """Create them, so that most steps have something to edit."""
        for dataset in ("d", "e"):
            self.engine.create_dataset(dataset)
        for name, policy in zip(NAMES, policies, strict=True):
            # The last one is large enough for a base.
            self.insert(name, policy, 900 if name == NAMES[-1] else 200)
        self.insert_one_of_few("e", NAMES[0], 0, "lossless", None, is_known=False)
        self.insert_one_of_few("e", NAMES[1], 2, "lossless", NAMES[0], is_known=False)

    @rule(name=names, policy=st.sampled_from(list(POLICIES)), count=rows)
    def insert(self, name: str, policy: str, count: int) -> None:
        """Insert a whole tensor, or replace the one that is there."""
        values = self._values(count, COLUMNS)
        insert(self.engine, "d", name, values, policy=POLICIES[policy], replace=True)
        found = read(self.engine, "d", name)
        if policy != "int8":
            assert_same_bits(found, values)
        self.model[name], self.metadata[name] = found, {}
        self.changed = True

    @rule(
        name=names,
        of=names,
        policy=st.sampled_from(list(POLICIES)),
        share=st.sampled_from([0.0, 0.01, 0.3, 1.0]),
        changed=st.sampled_from([0, 0, 1, 40]),
        data=st.data(),
    )
    def insert_with_base(
        self, name: str, of: str, policy: str, *, share: float, changed: int, data: st.DataObject
    ) -> None:
        """Insert what is near another tensor, or an earlier state of it, with that as the base: perhaps in its own place."""
        snapshot = data.draw(st.sampled_from([None, *self.snapshots]))
        base = (self.model if snapshot is None else self.snapshots[snapshot][0]).get(of)
        if base is None:
            return
        values = next_step(base, self.seed, share)
        values[:changed] = self._values(*values[:changed].shape)
        at = None if snapshot is None else At(snapshot=snapshot)
        reference = TensorReference("d", of, at)
        tensor = insert(self.engine, "d", name, values, policy=POLICIES[policy], replace=True, base=reference)
        found = read(self.engine, "d", name)
        if not tensor.storage.lossy:
            assert_same_bits(found, values)
        self.model[name], self.metadata[name] = found, {}
        self.changed = True

    @rule(
        dataset=datasets,
        name=names,
        number=few,
        policy=st.sampled_from(["lossless", "lossless", "lossless", "raw", "int8"]),
        base=st.sampled_from([None, None, *NAMES]),
        is_known=st.booleans(),
    )
    def insert_one_of_few(
        self, dataset: str, name: str, number: int, policy: str, base: str | None, *, is_known: bool
    ) -> None:
        """Insert what other tensors may have already, perhaps with a base, which may be the same, or only by its checksum."""
        self._insert_elsewhere((dataset, name), FEW[number], policy, base, is_known=is_known)

    @rule(
        dataset=datasets,
        name=names,
        of=names,
        base=st.sampled_from([None, None, *NAMES]),
        is_known=st.booleans(),
        data=st.data(),
    )
    def insert_what_is_there(
        self, dataset: str, name: str, of: str, base: str | None, *, is_known: bool, data: st.DataObject
    ) -> None:
        """Insert what a tensor has, or had in a snapshot, under the same policy."""
        state = data.draw(st.sampled_from([None, *self.snapshots]))
        values = (self.model if state is None else self.snapshots[state][0]).get(of)
        if values is not None:
            tensor = self.engine.get_tensor("d", of, at=None if state is None else At(snapshot=state))
            (policy,) = (name for name, known in POLICIES.items() if known.to_json() == tensor.policy)
            self._insert_elsewhere((dataset, name), values, policy, base, is_known=is_known)

    @rule(name=names)
    def delete_elsewhere(self, name: str) -> None:
        """Delete a tensor of the other dataset."""
        self.engine.delete_tensors("e", [name])
        self.elsewhere.pop(name, None)
        self.changed = True

    @rule(name=names, count=st.sampled_from([1, 40]), is_held=held)
    def append_elsewhere(self, name: str, count: int, *, is_held: bool) -> None:
        """Append rows to a tensor of the other dataset, whose payload others may share."""
        old = self.elsewhere.get(name)
        if old is not None and len(old) + count <= ROWS_MAX:
            self.patch.setattr(edit_writer, "EDIT_HELD_BYTES_MAX", 2**20 if is_held else 0)
            insert(self.engine, "e", name, self._values(count, COLUMNS), edit=Append(0))
            found = read(self.engine, "e", name)
            assert_same_bits(found[: len(old)], old)
            self.elsewhere[name] = found
            self.changed = True

    def _insert_elsewhere(
        self, place: tuple[str, str], values: np.ndarray[Any, Any], policy: str, base: str | None, *, is_known: bool
    ) -> None:
        """Insert values under an id of either dataset, if they are not missing."""
        dataset, name = place
        self.changed = True
        self.seed += 1
        # With other metadata, so that it is not already stored.
        fields: dict[str, Any] = {"policy": POLICIES[policy], "replace": True, "metadata": {"seed": self.seed}}
        for where, model in (("d", self.model), ("e", self.elsewhere)):
            if base is not None and base in model and model[base].shape == values.shape:
                fields["base"] = TensorReference(where, base)
        if is_known:
            checksum = Checksum("xxh3_128", TensorDigest.of(canonical(values)))
            (outcome,) = self.engine.insert_known(dataset, [announce(name, values, source_checksum=checksum, **fields)])
            if outcome is None:
                return
            assert isinstance(outcome, Tensor), outcome
            tensor = outcome
        else:
            tensor = insert(self.engine, dataset, name, values, **fields)
        found = read(self.engine, dataset, name)
        if not tensor.storage.lossy:
            assert_same_bits(found, values)
        if dataset == "e":
            self.elsewhere[name] = found
        else:
            self.model[name], self.metadata[name] = found, {"seed": self.seed}

    @rule(name=names, count=rows, is_held=held)
    def append(self, name: str, count: int, *, is_held: bool) -> None:
        """Append rows."""
        old = self.model.get(name)
        if old is None or len(old) + count > ROWS_MAX:
            return
        new = self._values(count, COLUMNS)
        expected = np.concatenate([old, new])
        kept = np.arange(len(expected)) < len(old)
        self._edit(name, Append(0), new, expected, np.broadcast_to(kept[:, None], expected.shape), is_held=is_held)

    @rule(name=names, begin=st.floats(0, 1), count=rows, is_held=held)
    def write_rows(self, name: str, begin: float, count: int, *, is_held: bool) -> None:
        """Write rows that follow each other."""
        if name in self.model:
            start = int(begin * len(self.model[name]))
            self._write(name, (slice(start, min(start + count, len(self.model[name]))),), is_held=is_held)

    @rule(
        name=names,
        begin=st.floats(0, 1),
        steps=st.tuples(st.integers(1, 70), st.integers(1, 5)),
        columns=st.tuples(st.integers(0, COLUMNS), st.integers(0, COLUMNS)).map(sorted),
        is_held=held,
    )
    def write_with_steps(
        self, name: str, begin: float, steps: tuple[int, int], columns: list[int], *, is_held: bool
    ) -> None:
        """Write some elements of some rows."""
        if name in self.model:
            start = int(begin * len(self.model[name]))
            self._write(name, (slice(start, None, steps[0]), slice(*columns, steps[1])), is_held=is_held)

    @rule(name=names, row=st.floats(0, 1, exclude_max=True), column=st.integers(0, COLUMNS - 1), is_held=held)
    def write_an_element(self, name: str, row: float, column: int, *, is_held: bool) -> None:
        """Write one element."""
        if name in self.model and len(self.model[name]):
            at = int(row * len(self.model[name]))
            self._write(name, (slice(at, at + 1), slice(column, column + 1)), is_held=is_held)

    @rule(name=names)
    def delete(self, name: str) -> None:
        """Delete a tensor, if it is there."""
        assert self.engine.delete_tensors("d", [name]) == ([name] if self.model.pop(name, None) is not None else [])

    @rule(name=names, number=st.integers(0, 3))
    def update_metadata(self, name: str, number: int) -> None:
        """Replace a tensor's metadata."""
        if name in self.model:
            self.engine.update_metadata("d", name, {"number": number})
            self.metadata[name] = {"number": number}
            self.changed = True

    @rule(source=names, to=names, data=st.data())
    def copy(self, source: str, to: str, data: st.DataObject) -> None:
        """Copy a tensor over another one or to a free id, as it is or was."""
        state = data.draw(st.sampled_from([None, *self.snapshots]))
        arrays, metadata = (self.model, self.metadata) if state is None else self.snapshots[state]
        if source in arrays and (source != to or state is not None):
            at = None if state is None else At(snapshot=state)
            (copied,) = self.engine.copies.copy_tensors("d", [(source, to)], at=at, replace=True)
            assert copied.id == to
            self.model[to], self.metadata[to] = arrays[source], metadata.get(source, {})
            self.changed = True

    @rule(order=st.permutations(NAMES), count=st.integers(2, len(NAMES)))
    def move(self, order: list[str], count: int) -> None:
        """Let tensors change places, or move to free ones."""
        places = zip(order[:count], [*order[1:count], order[0]], strict=True)
        ids = [(old, new) for old, new in places if old in self.model]
        self.engine.copies.move_tensors("d", ids, replace=True)
        moved = {new: (self.model.pop(old), self.metadata.get(old, {})) for old, new in ids}
        for new, (array, metadata) in moved.items():
            self.model[new], self.metadata[new] = array, metadata
        self.changed = True

    @precondition(lambda self: len(self.snapshots) < 4)
    @rule()
    def snapshot(self) -> None:
        """Make a snapshot."""
        self.seed += 1
        self.engine.snapshots.create("d", f"s{self.seed}")
        self.snapshots[f"s{self.seed}"] = (dict(self.model), dict(self.metadata))

    @precondition(lambda self: self.snapshots)
    @rule(data=st.data())
    def drop_snapshot(self, data: st.DataObject) -> None:
        """Drop one."""
        name = data.draw(st.sampled_from(list(self.snapshots)))
        self.engine.snapshots.drop("d", name)
        del self.snapshots[name]
        self.changed = True

    @precondition(lambda self: self.snapshots)
    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        """Restore one: twice is the same as once."""
        name = data.draw(st.sampled_from(list(self.snapshots)))
        first = self.engine.snapshots.restore("d", At(snapshot=name), discard_newer=True)
        second = self.engine.snapshots.restore("d", At(snapshot=name))
        self.model, self.metadata = (dict(part) for part in self.snapshots[name])
        assert (second.restored, second.deleted, second.unchanged) == (0, 0, len(self.model))
        assert first.restored + first.unchanged == len(self.model)
        self.changed = True

    @precondition(lambda self: self.changed)
    @rule()
    def sweep(self) -> None:
        """Remove what nobody needs: everything can still be read, and nothing else is stored."""
        self.engine.sweep(in_grace=True)
        needed = self._compare(None, self.model, self.metadata)
        for name, (arrays, metadata) in self.snapshots.items():
            needed |= self._compare(At(snapshot=name), arrays, metadata)
        for name, array in self.elsewhere.items():
            assert_same_bits(read(self.engine, "e", name), array)
            needed |= needed_payloads(self.engine, find(self.engine, "e", name))
        assert {stored.key for stored in self.engine._chunk_store.published()} == needed

    def _compare(
        self, at: At | None, arrays: dict[str, np.ndarray[Any, Any]], metadata: dict[str, dict[str, int]]
    ) -> set[str]:
        """Read a state, and return the keys of the payloads that it needs."""
        needed: set[str] = set()
        selection = self.engine.select(Query("d", at=at), with_payloads=True)
        tensors = {tensor.id: tensor for tensor in selection if isinstance(tensor, Tensor)}
        assert tensors.keys() == arrays.keys()
        for name, tensor in tensors.items():
            plan = ReadPlan(tensor, None)
            assert_same_bits(assemble(plan.result, pieces_of(self.engine, tensor)), arrays[name])
            assert tensor.metadata == metadata.get(name, {})
            needed |= needed_payloads(self.engine, tensor)
        return needed

    @precondition(lambda self: self.changed)
    @rule()
    def reopen(self) -> None:
        """Close the engine and open the same store."""
        self.changed = False
        self.engine.close()
        self.engine = open_engine(self.config)

    def _values(self, *shape: int) -> np.ndarray[Any, Any]:
        self.seed += 1
        return np.random.default_rng(self.seed).standard_normal(shape).astype(np.float32)

    def _write(self, name: str, index: tuple[slice, ...], *, is_held: bool) -> None:
        expected = self.model[name].copy()
        new = self._values(*expected[index].shape)
        kept = np.ones(expected.shape, bool)
        expected[index], kept[index] = new, False
        self._edit(name, Write(SliceSet(index)), new, expected, kept, is_held=is_held)

    def _edit(
        self,
        name: str,
        how: Edit,
        sent: np.ndarray[Any, Any],
        expected: np.ndarray[Any, Any],
        kept: np.ndarray[Any, Any],
        *,
        is_held: bool,
    ) -> None:
        """Edit a tensor; compare what is read with what is expected, and with what is said of it."""
        self.changed = True
        self.patch.setattr(edit_writer, "EDIT_HELD_BYTES_MAX", 2**20 if is_held else 0)
        before = find(self.engine, "d", name)
        tensor = insert(self.engine, "d", name, sent, edit=how)
        assert tensor.outcome is Outcome.CHANGED
        assert tensor.generation > before.generation
        found = read(self.engine, "d", name)
        assert found.shape == expected.shape
        assert_same_bits(found[kept], expected[kept])
        if tensor.storage.lossy:
            difference = np.abs(found.astype(np.float64) - expected)
            assert difference.max(initial=0) <= tensor.storage.max_absolute_error * (1 + 1e-6)
        else:
            assert_same_bits(found, expected)
        assert tensor.value_checksum.value == digest_of(tensor, found)
        assert tensor.storage.canonical_bytes == found.nbytes
        assert sum(share.canonical_bytes for share in tensor.storage.encodings) == found.nbytes
        self.model[name] = found


def digest_of(tensor: Tensor, values: np.ndarray[Any, Any]) -> bytes:
    """Return the tensor digest of what was read."""
    spec = tensor.spec
    digest = ChunkedDigest(spec.dtype.number, 8 * spec.dtype.element_bytes, spec.shape, tensor.chunk_bytes)
    digest.update(values.tobytes())
    return digest.digest()


class TestEditsMachine(EditsMachine.TestCase):  # type: ignore[name-defined, misc]  # a class that Hypothesis makes
    """Runs the machine."""

    settings = settings(
        settings.default,
        # Of 50 steps each: 5,000 steps in `make test`, 50,000 in `make test-long`.
        max_examples=min(2 * settings.default.max_examples, 1000),
        stateful_step_count=50,
        suppress_health_check=[HealthCheck.too_slow],
    )

    @classmethod
    def setUpClass(cls) -> None:
        """Make the folder, of few shards: looking through all 256 takes longer than most steps."""
        cls.enterClassContext(few_shards())
        EditsMachine.folder = Path(tempfile.mkdtemp(prefix="tensorus-edits-"))

    @classmethod
    def tearDownClass(cls) -> None:
        """Remove it."""
        shutil.rmtree(EditsMachine.folder)

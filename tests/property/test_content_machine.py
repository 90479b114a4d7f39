"""Equal bytes are stored once, and every tensor keeps its own: a state machine of few values under many ids."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from support.arrays import canonical, random_bits
from support.engine import Reports, announce, find, insert, read, send, set_aside_now, wait_for_purge
from support.servers import engine_config
from support.stores import few_shards
from support.verifying import verified
from tensorus_codecs.checksum import TensorDigest
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.app import open_engine
from tensorus_server.catalogue.sql.content import EQUALS_MAX
from tensorus_server.engine.engine import Engine
from tensorus_server.engine.insert.stream import InsertOptions
from tensorus_server.model import Append, Checksum, Outcome, Tensor

POLICY = StoragePolicy("none", chunk_bytes=16384)
DATASETS = ["one", "two"]
IDS = [f"{number}" for number in range(6)]
VALUES = [random_bits("uint8", (70_000 + number,), seed=number) for number in range(3)]
"""Each in a file of its own."""

Place = tuple[str, str]
"""A dataset and an id."""

places = st.tuples(st.sampled_from(DATASETS), st.sampled_from(IDS))
values = st.integers(0, len(VALUES) - 1)


@dataclass
class Kept:
    """What the model knows of one tensor."""

    array: np.ndarray[Any, Any]
    key: str
    value: int | None
    """The number of its value, if it was never edited."""


class ContentMachine(RuleBasedStateMachine):
    """The engine beside a dict of arrays, with the key of the payload of each."""

    folder: ClassVar[Path]
    """Of the store, which all runs share. Each begins by deleting everything."""

    def __init__(self) -> None:
        """Open the engine; the payloads of deleted tensors are due at once."""
        super().__init__()
        self.config = engine_config(self.folder / "store", codec_threads=2, delete_grace_s=0.0)
        self.engine: Engine = open_engine(self.config)
        for dataset in self.engine.list_datasets()[0]:
            self.engine.delete_dataset(dataset.name)
        wait_for_purge(self.engine)
        self.engine.sweep()
        self.model: dict[Place, Kept] = {}
        self.number = 0

    def teardown(self) -> None:
        """Delete everything and close: nothing is left."""
        try:
            self.everything_is_there_once()
            for dataset in DATASETS:
                self.engine.delete_dataset(dataset)
            wait_for_purge(self.engine)
            self.engine.sweep(in_grace=True)
            assert list(self.engine._chunk_store.published()) == []
        finally:
            self.engine.close()

    @initialize()
    def begin_with_datasets(self) -> None:
        """Create them."""
        for dataset in DATASETS:
            self.engine.create_dataset(dataset, POLICY)

    def keys_of(self, value: int, *, but: str | None = None) -> set[str]:
        """Return the keys of the payloads that tensors with this value have, other than `but`."""
        return {kept.key for kept in self.model.values() if kept.value == value and kept.key != but}

    def note(self, place: Place, value: int, tensor: Tensor) -> None:
        """Check which payload a tensor got, and note it."""
        before = self.model.get(place)
        if tensor.outcome is Outcome.ALREADY_STORED:
            assert before is not None
            assert (before.value, before.key) == (value, tensor.locator.key)
            return
        shareable = self.keys_of(value, but=None if before is None else before.key)
        # Of many tensors, only the latest are considered, which may all have the payload that is replaced.
        if shareable and sum(kept.value == value for kept in self.model.values()) <= EQUALS_MAX:
            assert tensor.locator.key in shareable, "equal bytes are stored twice"
        elif tensor.locator.key not in shareable:
            assert all(kept.key != tensor.locator.key for kept in self.model.values())
        self.model[place] = Kept(VALUES[value], tensor.locator.key, value)

    @rule(place=places, value=values)
    def insert(self, place: Place, value: int) -> None:
        """Insert, or replace, with other metadata each time, so that it is never already stored."""
        self.number += 1
        tensor = insert(self.engine, *place, VALUES[value], replace=True, metadata={"number": self.number})
        self.note(place, value, tensor)

    @rule(dataset=st.sampled_from(DATASETS), chosen=st.lists(st.tuples(st.sampled_from(IDS), values), max_size=6))
    def insert_together(self, dataset: str, chosen: list[tuple[str, int]]) -> None:
        """Insert several in one transaction, some under one id."""
        reports = Reports()
        stream = self.engine.open_insert(dataset, reports, InsertOptions(all_or_nothing=True))
        for item, (tensor_id, value) in enumerate(chosen):
            self.number += 1
            fields = {"replace": True, "metadata": {"number": self.number}}
            send(stream, item, tensor_id, VALUES[value], **fields)
        assert stream.finish() == (len(chosen), 0)
        for item, (tensor_id, value) in enumerate(chosen):
            self.note((dataset, tensor_id), value, reports.tensor(item))

    @rule(dataset=st.sampled_from(DATASETS), chosen=st.lists(st.tuples(st.sampled_from(IDS), values), max_size=6))
    def insert_together_in_vain(self, dataset: str, chosen: list[tuple[str, int]]) -> None:
        """Insert several, of which the last one fails."""
        reports = Reports()
        stream = self.engine.open_insert(dataset, reports, InsertOptions(all_or_nothing=True))
        for item, (tensor_id, value) in enumerate([*chosen, ("", 0)]):
            send(stream, item, tensor_id, VALUES[value], replace=True, metadata={"in": "vain"})
        assert stream.finish() == (0, len(chosen) + 1)

    @rule(dataset=st.sampled_from(DATASETS), chosen=st.lists(st.tuples(st.sampled_from(IDS), values), max_size=4))
    def insert_known(self, dataset: str, chosen: list[tuple[str, int]]) -> None:
        """Ask, and send nothing."""
        announced = []
        for tensor_id, value in chosen:
            self.number += 1
            checksum = Checksum("xxh3_128", TensorDigest.of(canonical(VALUES[value])))
            fields: dict[str, Any] = {"replace": True, "metadata": {"number": self.number}}
            announced.append(announce(tensor_id, VALUES[value], source_checksum=checksum, **fields))
        known = {value for _, value in chosen if self.keys_of(value)}
        for (tensor_id, value), outcome in zip(chosen, self.engine.insert_known(dataset, announced), strict=True):
            place = (dataset, tensor_id)
            if outcome is None:
                before = self.model.get(place)
                assert value not in known or len(chosen) > 1 or (before is not None and before.value == value)
            else:
                assert isinstance(outcome, Tensor), outcome
                assert value in known
                self.note(place, value, outcome)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def edit(self, data: st.DataObject) -> None:
        """Append to a tensor, which changes no other."""
        place = data.draw(st.sampled_from(sorted(self.model)))
        kept = self.model[place]
        if kept.array.nbytes < 200_000:
            grown = np.concatenate([kept.array, VALUES[0]])
            tensor = insert(self.engine, *place, VALUES[0], edit=Append(0))
            self.model[place] = Kept(grown, tensor.locator.key, None)

    @rule(dataset=st.sampled_from(DATASETS), ids=st.sets(st.sampled_from(IDS), max_size=4))
    def delete(self, dataset: str, ids: set[str]) -> None:
        """Delete some."""
        self.engine.delete_tensors(dataset, sorted(ids))
        for tensor_id in ids:
            self.model.pop((dataset, tensor_id), None)

    @rule(dataset=st.sampled_from(DATASETS))
    def delete_dataset(self, dataset: str) -> None:
        """Delete a dataset; its tensors are there until it is purged, and may be shared meanwhile."""
        self.engine.delete_dataset(dataset)
        wait_for_purge(self.engine)
        self.engine.create_dataset(dataset, POLICY)
        self.model = {place: kept for place, kept in self.model.items() if place[0] != dataset}

    @rule()
    def sweep(self) -> None:
        """Delete what is due."""
        self.engine.sweep()

    @rule()
    def reopen(self) -> None:
        """Close the store and open it again."""
        self.engine.close()
        self.engine = open_engine(self.config)

    @rule()
    def everything_is_there_once(self) -> None:
        """Read all, and count the payloads after a sweep: those that tensors have, and no other."""
        self.engine.sweep()
        set_aside_now(self.engine)
        assert self.engine.empty_quarantine() == 0
        needed: set[str] = set()
        for (dataset, tensor_id), kept in self.model.items():
            tensor = find(self.engine, dataset, tensor_id)
            assert tensor.locator.key == kept.key
            assert np.array_equal(read(self.engine, dataset, tensor_id), kept.array)
            needed |= {kept.key} if tensor.inline_payload is None else set()
        published = {found.key for found in self.engine._chunk_store.published()}
        assert needed <= published
        if all(kept.value is not None for kept in self.model.values()):
            assert published == needed
        assert verified(self.engine).damages == []
        sizes = self.engine.store_stats().totals
        assert sizes.sizes.canonical_bytes == sum(kept.array.nbytes for kept in self.model.values())
        once = {kept.key: kept.array.nbytes for kept in self.model.values()}
        assert sizes.shared.unique_bytes == sum(once.values())


class TestContentMachine(ContentMachine.TestCase):  # type: ignore[name-defined, misc]  # a class that Hypothesis makes
    """Runs the machine."""

    settings = settings(settings.default, stateful_step_count=20, suppress_health_check=[HealthCheck.too_slow])

    @classmethod
    def setUpClass(cls) -> None:
        """Make the folder, of few shards."""
        cls.enterClassContext(few_shards())
        ContentMachine.folder = Path(tempfile.mkdtemp(prefix="tensorus-content-"))

    @classmethod
    def tearDownClass(cls) -> None:
        """Remove it."""
        shutil.rmtree(ContentMachine.folder)

"""What every catalogue promises of texts of clients: they are data, and never a part of a statement."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

from support.engine import Reopen, Reports, ids_of, insert, listed, send
from support.hostile import HOSTILE_BASES, hostile_texts
from support.stores import few_shards
from tensorus_protos.rules import join_key
from tensorus_server.access.quotas import Quota
from tensorus_server.access.rights import Grant, Role, Scope
from tensorus_server.catalogue.abc import Catalogue
from tensorus_server.chunk_store.local import LocalChunkStore
from tensorus_server.engine.access import Access
from tensorus_server.engine.codec_pool import CodecPool
from tensorus_server.engine.engine import Engine
from tensorus_server.errors import InvalidRequestError
from tensorus_server.filter.tree import Compare, Filter, Key, OneOf, Operator, Prefix, Property, check_filter
from tensorus_server.model import Dataset, Tensor

TEXTS = hostile_texts()
VALUES = np.arange(4, dtype=np.float32)

_Made = TypeVar("_Made")


def taken(call: Callable[[str], _Made], texts: Sequence[str] = TEXTS) -> dict[str, _Made]:
    """Return what a call makes of each text that it takes; it must refuse the others as what they are."""
    found = {}
    for text in texts:
        try:
            found[text] = call(text)
        except InvalidRequestError:
            continue
    return found


class CatalogueHostileContract:
    """What every catalogue promises. A subclass supplies the fixtures `catalogue` and `reopen`."""

    @pytest.fixture
    def engine(self, catalogue: Catalogue, tmp_path: Path) -> Engine:
        payloads = tmp_path / "payloads"
        payloads.mkdir()
        with few_shards():
            engine = Engine(catalogue, LocalChunkStore(payloads), CodecPool(2), sweeps=False)
        engine.create_dataset("canary")
        insert(engine, "canary", "t", VALUES, metadata={"key": "value"})
        return engine

    def require_canary(self, catalogue: Catalogue) -> None:
        (tensor,) = catalogue.tensors.get("canary", ["t"])
        assert isinstance(tensor, Tensor)
        assert tensor.metadata == {"key": "value"}

    def test_ids_are_found_as_they_were_given(self, engine: Engine, catalogue: Catalogue, reopen: Reopen) -> None:
        engine.create_dataset("d")
        ids = [tensor.id for tensor in stored(engine, [(text, {}) for text in TEXTS])]
        assert len(ids) > 300

        def require_all(found: Catalogue) -> None:
            assert sorted(ids_of(found, "d")) == sorted(ids)
            assert [tensor.id for tensor in found.tensors.get("d", ids) if isinstance(tensor, Tensor)] == ids
            self.require_canary(found)

        require_all(catalogue)
        for text in ids:
            assert ids_of(catalogue, "d", Compare(Property.ID, Operator.EQUAL, text)) == [text]
        assert engine.delete_tensors("d", TEXTS[::9]) == [text for text in TEXTS[::9] if text in ids]
        ids = [text for text in ids if text not in TEXTS[::9]]
        require_all(reopen())

    def test_keys_and_values_of_metadata_are_found_as_they_were_given(
        self, engine: Engine, catalogue: Catalogue, reopen: Reopen
    ) -> None:
        engine.create_dataset("d")
        tensors = stored(engine, [(f"m{number}", {text: text}) for number, text in enumerate(TEXTS)])
        assert len(tensors) > 300
        for tensor in tensors:
            ((key, text),) = tensor.metadata.items()
            assert TEXTS[int(tensor.id[1:])] == key == text
            field = Key(join_key([key]))
            for filter_ in (Compare(field, Operator.EQUAL, text), OneOf(field, (text, "another")), Prefix(field, text)):
                assert found_by(catalogue, filter_, tensor.id) == [tensor.id]
        again = reopen().tensors.get("d", [tensor.id for tensor in tensors])
        assert [tensor.metadata for tensor in again if isinstance(tensor, Tensor)] == [one.metadata for one in tensors]

    def test_names_of_datasets_and_snapshots_are_listed_as_they_were_given(
        self, engine: Engine, catalogue: Catalogue, reopen: Reopen
    ) -> None:
        names = [*taken(engine.create_dataset)]
        snapshots = [*taken(lambda text: engine.snapshots.create("canary", text))]
        assert min(len(names), len(snapshots)) > 100

        def require_all(found: Catalogue) -> None:
            assert [one.name for one in listed(found) if isinstance(one, Dataset)] == ["canary", *names]
            self.require_canary(found)

        require_all(catalogue)
        page, _ = engine.snapshots.page("canary", page_size=1000)
        assert [one.name for one in page if not isinstance(one, Exception)] == snapshots
        for name in names[::10]:
            engine.delete_dataset(name)
        assert len(listed(catalogue)) == 1 + len(names) - len(names[::10])
        self.require_canary(reopen())

    def test_principals_and_patterns_are_those_that_were_given(self, engine: Engine, catalogue: Catalogue) -> None:
        access = Access(catalogue.access)
        grants = taken(lambda text: access.add_grant(Grant(f"group:{text}", Scope(Role.READER, "*"))), HOSTILE_BASES)
        patterns = taken(lambda text: access.add_grant(Grant("group:canary", Scope(Role.READER, text))), HOSTILE_BASES)
        tokens = taken(lambda text: access.create_token(text, note="a note")[0], HOSTILE_BASES)
        quotas = taken(lambda text: access.set_quota(Quota(f"oidc:{text}", streams=1)), HOSTILE_BASES)
        owned = taken(lambda text: access.set_owner("canary", f"cert:{text}"), HOSTILE_BASES)
        assert min(map(len, (grants, patterns, tokens, quotas, owned))) > 50
        again = Access(catalogue.access)
        assert {grant.principal for grant in again.grants()} == {"group:canary", *(f"group:{text}" for text in grants)}
        assert {grant.scope.pattern for grant in again.grants()} == {"*", *patterns}
        assert [token.principal for token in again.tokens()] == [f"token:{text}" for text in tokens]
        assert {quota.principal for quota in again.quotas()} == {f"oidc:{text}" for text in quotas}
        assert again.owner_of("canary") == f"cert:{[*owned][-1]}"
        # Nobody sees some characters, so two names with them could look alike.
        assert all(principal.isprintable() for principal in (*grants, *tokens, *quotas, *owned))
        self.require_canary(catalogue)


def stored(engine: Engine, announced: Sequence[tuple[str, dict[str, str]]]) -> list[Tensor]:
    """Insert tensors with these ids and metadata, and return those that were; the others must be refused as what they are."""
    reports = Reports()
    stream = engine.open_insert("d", reports)
    for number, (name, metadata) in enumerate(announced):
        send(stream, number, name, VALUES, metadata=metadata)
    stream.finish()
    refused = [outcome for outcome in reports.outcomes.values() if isinstance(outcome, Exception)]
    assert all(isinstance(error, InvalidRequestError) for error in refused), refused
    outcomes = (reports.outcomes[number] for number in range(len(announced)))
    return [outcome for outcome in outcomes if isinstance(outcome, Tensor)]


def found_by(catalogue: Catalogue, filter_: Filter, otherwise: str) -> list[str]:
    """Return what a filter finds; `otherwise` if it is refused."""
    try:
        check_filter(filter_)
    except InvalidRequestError:
        return [otherwise]
    return ids_of(catalogue, "d", filter_)

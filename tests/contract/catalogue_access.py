"""What every catalogue promises of tokens, grants, quotas and owners; a class as the others."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from contract.catalogue_promises import keeps
from support.engine import Reopen, commit, create, purge, stored_tensor
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.access.quotas import Quota, Usage
from tensorus_server.access.rights import Caller, Grant, Rights, Role, Scope
from tensorus_server.access.state import AccessState
from tensorus_server.access.tokens import Token
from tensorus_server.catalogue.abc import Catalogue, TensorCopies
from tensorus_server.catalogue.sql import access
from tensorus_server.catalogue.sql.catalogue import SqlCatalogue
from tensorus_server.errors import (
    AlreadyExistsError,
    DataCorruptError,
    DatasetNotFoundError,
    InvalidNameError,
    InvalidRequestError,
    LimitExceededError,
)
from tensorus_server.model import Schema

GRANT = Grant("token:trainer", Scope(Role.WRITER, "team/*"))
QUOTA = Quota("oidc:ä\U0001f600", 2**62, 0, 3, 0.1, None)

DAMAGE = {
    "another principal": ("access_grant", "principal", "'token:mallory'"),
    "another pattern": ("access_grant", "pattern", "'*'"),
    "another role": ("access_grant", "role", "3"),
    "a role that does not exist": ("access_grant", "role", "7"),
    "a grant's checksum": ("access_grant", "row_checksum", "0"),
    "another owner of a token": ("token", "principal", "'token:mallory'"),
    "another note": ("token", "note", "'x'"),
    "another digest": ("token", "digest", "CAST('x' AS BLOB)"),
    "another creation": ("token", "created_us", "2"),
    "no expiry": ("token", "expires_us", "NULL"),
    "no scopes": ("token", "scopes", "NULL"),
    "other scopes": ("token", "scopes", "'[]'"),
    "a quota's principal": ("quota", "principal", "'token:x'"),
    "no limit": ("quota", "stored_bytes", "NULL"),
    "another limit": ("quota", "tensors", "1"),
    "another rate": ("quota", "calls_per_s", "0.2"),
    "a new limit": ("quota", "bytes_per_s", "0"),
}
"""Tables with one row, and a column with another value."""


def token(number: int = 1, **fields: Any) -> Token:
    """Return a token with every kind of value."""
    scopes = (Scope(Role.READER, "team/ä*"), Scope(Role.ADMIN, "*"))
    values = {"expires_us": 10**15, "scopes": scopes, "note": 'a "note" \U0001f600', **fields}
    return Token(f"{number:016x}", "token:trainer", digest=bytes(range(32)), created_us=10 + number, **values)


def change(catalogue: Catalogue, statement: str) -> None:
    """Change rows behind the catalogue's back."""
    assert isinstance(catalogue, SqlCatalogue)
    with catalogue._transactions.write() as connection:
        connection.execute(statement)


def own(catalogue: Catalogue, name: str = "dataset", owner: str = "token:a") -> Any:
    """Create a dataset with an owner."""
    return catalogue.datasets.create(name, StoragePolicy(), Schema(), owner=owner)


def held(catalogue: Catalogue, principal: str = "token:a") -> tuple[int, int]:
    """Return the tensors and the stored bytes of an owner."""
    usage = catalogue.access.usage([principal])[principal]
    return usage.tensors, usage.stored_bytes


class CatalogueAccessContract:
    """What every catalogue promises. A subclass supplies the fixtures `catalogue`, `reopen`, and `pair`: two on one store."""

    def test_a_new_store_allows_nothing(self, catalogue: Catalogue) -> None:
        assert catalogue.access.state() == AccessState(0)
        assert catalogue.access.version() == 0
        assert catalogue.access.usage(["token:a"]) == {"token:a": Usage()}

    @keeps(1)
    def test_everything_survives_a_reopening_value_for_value(self, catalogue: Catalogue, reopen: Reopen) -> None:
        tokens = token(1), token(2, scopes=(), expires_us=None), token(3, scopes=None, note="", revoked_us=5)
        for one in reversed(tokens):
            catalogue.access.add_token(one)
        grants = GRANT, replace(GRANT, scope=Scope(Role.ADMIN, "team/*")), Grant("group:ml", Scope(Role.READER, "*"))
        assert [catalogue.access.add_grant(one) for one in grants] == [True] * 3
        quotas = QUOTA, Quota("token:a", calls_per_s=-0.0)
        for quota in quotas:
            catalogue.access.set_quota(quota)
        state = reopen().access.state()
        assert state == AccessState(8, tokens, (grants[2], *grants[:2]), quotas)
        assert repr(state.quotas[1].calls_per_s) == "0.0"

    @keeps(3)
    def test_a_change_is_seen_by_another_process(self, pair: tuple[Catalogue, Catalogue]) -> None:
        one, two = pair
        own(one)
        changes = [
            lambda: one.access.add_token(token()),
            lambda: one.access.add_grant(GRANT),
            lambda: one.access.set_quota(QUOTA),
            lambda: one.access.set_owner("dataset", "token:b"),
            lambda: one.access.revoke_token(token().id, 5),
            lambda: one.access.forget_tokens(6),
            lambda: one.access.remove_grant(GRANT),
            lambda: one.access.set_quota(Quota(QUOTA.principal)),
            lambda: one.access.set_owner("dataset", ""),
        ]
        for number, change_one in enumerate(changes):
            assert two.access.version() == number
            change_one()
            assert (two.access.version(), two.access.state()) == (number + 1, one.access.state())

    @keeps(9)
    def test_what_changes_nothing_leaves_the_version(self, catalogue: Catalogue) -> None:
        table = catalogue.access
        table.add_token(token())
        table.add_grant(GRANT)
        table.set_quota(QUOTA)
        assert table.revoke_token(token().id, 5) == token(revoked_us=5)
        own(catalogue, owner="")
        version = table.version()
        assert table.revoke_token(token().id, 9) == token(revoked_us=5)
        assert table.revoke_token("nowhere", 9) is None
        assert not table.add_grant(GRANT)
        assert not table.remove_grant(Grant("token:trainer", Scope(Role.READER, "team/*")))
        assert not table.remove_grant(Grant("token:trainer", Scope(Role.WRITER, "team/")))
        table.set_quota(QUOTA)
        table.set_quota(Quota("token:nobody"))
        table.set_owner("dataset", "")
        assert table.forget_tokens(5) == 0
        with pytest.raises(AlreadyExistsError):
            table.add_token(token(note="another"))
        assert table.version() == version
        assert table.state() == AccessState(version, (token(revoked_us=5),), (GRANT,), (QUOTA,))

    def test_tokens_are_forgotten_once_they_ended_before_a_time(self, catalogue: Catalogue) -> None:
        tokens = [
            token(1, expires_us=100),
            token(2, expires_us=99),
            token(3, expires_us=None),
            token(4, expires_us=None, revoked_us=99),
            token(5, expires_us=500, revoked_us=50),
        ]
        for one in tokens:
            catalogue.access.add_token(one)
        assert catalogue.access.forget_tokens(100) == 3
        assert catalogue.access.state().tokens == (tokens[0], tokens[2])

    def test_there_are_only_so_many(self, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("TOKENS_MAX", "GRANTS_MAX", "QUOTAS_MAX"):
            monkeypatch.setattr(access, name, 2)
        for number in range(2):
            catalogue.access.add_token(token(number))
            catalogue.access.add_grant(replace(GRANT, principal=f"token:{number}"))
            catalogue.access.set_quota(replace(QUOTA, principal=f"token:{number}"))
        before = catalogue.access.state()
        with pytest.raises(LimitExceededError, match=r"the store has 2 tokens, which is the limit \(tokens_max\)"):
            catalogue.access.add_token(token(2))
        with pytest.raises(LimitExceededError, match=r"the store has 2 grants, which is the limit \(grants_max\)"):
            catalogue.access.add_grant(GRANT)
        with pytest.raises(LimitExceededError, match=r"the store has 2 quotas, which is the limit \(quotas_max\)"):
            catalogue.access.set_quota(QUOTA)
        assert catalogue.access.state() == before
        catalogue.access.set_quota(replace(QUOTA, principal="token:1", streams=9))
        assert not catalogue.access.add_grant(replace(GRANT, principal="token:1"))

    def test_what_has_not_the_form_is_refused(self, catalogue: Catalogue) -> None:
        table = catalogue.access
        with pytest.raises(InvalidNameError):
            table.add_token(replace(token(), principal="trainer"))
        with pytest.raises(LimitExceededError, match="note is 258 bytes, limit is 256 bytes"):
            table.add_token(token(note="ä" * 129))
        with pytest.raises(InvalidRequestError, match="must be one line of printable text"):
            table.add_token(token(note="a\0b"))
        with pytest.raises(LimitExceededError, match="number of scopes is 33, limit is 32"):
            table.add_token(token(scopes=(GRANT.scope,) * 33))
        with pytest.raises(InvalidRequestError, match="pattern is"):
            table.add_token(token(scopes=(Scope(Role.READER, "a*b"),)))
        with pytest.raises(InvalidNameError):
            table.add_grant(replace(GRANT, principal="token:" + "x" * 251))
        with pytest.raises(InvalidRequestError, match="pattern is"):
            table.add_grant(replace(GRANT, scope=Scope(Role.READER, "x" * 257)))
        for limit in ({"stored_bytes": -1}, {"calls_per_s": float("nan")}, {"tensors": 2**63}):
            with pytest.raises(InvalidRequestError, match="must be from 0 to 9223372036854775807"):
                table.set_quota(Quota("token:a", **limit))  # type: ignore[arg-type] - the rate is a float
        with pytest.raises(InvalidNameError):
            own(catalogue, owner="local:")
        own(catalogue)
        with pytest.raises(InvalidNameError):
            table.set_owner("dataset", "anybody")
        with pytest.raises(DatasetNotFoundError):
            table.set_owner("nowhere", "token:a")
        assert (table.version(), table.owner_of("dataset")) == (0, "token:a")

    @keeps(10)
    def test_of_equal_grants_of_many_threads_one_is_added(self, catalogue: Catalogue) -> None:
        with ThreadPoolExecutor(8) as pool:
            added = list(pool.map(lambda _: catalogue.access.add_grant(GRANT), range(24)))
        assert sorted(added) == [False] * 23 + [True]
        assert catalogue.access.state() == AccessState(1, grants=(GRANT,))

    @pytest.mark.parametrize("seed", [0, 1])
    def test_the_state_is_that_of_a_dict(self, catalogue: Catalogue, seed: int) -> None:
        model = _Model(catalogue, random.Random(seed))
        steps = [model.add_token, model.revoke, model.forget, model.add_grant, model.remove_grant, model.set_quota]
        for now_us in range(120):
            model.choose.choice(steps)(now_us)
            state = catalogue.access.state()
            assert {kept.id: kept for kept in state.tokens} == model.tokens
            assert {kept.principal: kept for kept in state.quotas} == model.quotas
            assert (set(state.grants), len(state.grants), state.damaged) == (model.grants, len(model.grants), ())

    def test_a_damaged_row_is_named_and_allows_nothing(self, catalogue: Catalogue) -> None:
        for what, (table, column, value) in DAMAGE.items():
            catalogue.access.add_token(token())
            catalogue.access.add_grant(GRANT)
            catalogue.access.set_quota(QUOTA)
            before = catalogue.access.state()
            assert before.damaged == (), what
            change(catalogue, f"UPDATE {table} SET {column} = {value}")
            state = catalogue.access.state()
            left_out = {"token": "tokens", "access_grant": "grants", "quota": "quotas"}[table]
            assert replace(state, damaged=()) == replace(before, **{left_out: ()}), what
            (damage,) = state.damaged
            assert f"the catalogue is damaged at {left_out.removesuffix('s')} '" in damage, what
            rights = Rights(state.grants)
            for role, dataset in ((Role.READER, "team/a"), (Role.ADMIN, "*")):
                assert rights.allows(Caller("token:trainer"), role, dataset) == (
                    table != "access_grant" and role is Role.READER
                )
                assert not rights.allows(Caller("token:mallory"), role, dataset), what
            for each_table in ("token", "access_grant", "quota"):
                change(catalogue, f"DELETE FROM {each_table}")

    def test_a_damaged_token_is_deleted_rather_than_revoked(self, catalogue: Catalogue) -> None:
        catalogue.access.add_token(token())
        change(catalogue, "UPDATE token SET scopes = NULL")
        assert catalogue.access.forget_tokens(2**62) == 0
        with pytest.raises(DataCorruptError, match="it was deleted"):
            catalogue.access.revoke_token(token().id, 5)
        assert catalogue.access.state() == AccessState(2)

    def test_a_damaged_grant_or_quota_can_be_replaced_and_removed(self, catalogue: Catalogue) -> None:
        table = catalogue.access
        for repair in (lambda: table.add_grant(GRANT), lambda: table.remove_grant(GRANT) and table.add_grant(GRANT)):
            table.add_grant(GRANT)
            table.set_quota(QUOTA)
            change(catalogue, "UPDATE access_grant SET row_checksum = 0")
            change(catalogue, "UPDATE quota SET streams = 0")
            assert len(table.state().damaged) == 2
            assert repair()
            table.set_quota(QUOTA)
            state = table.state()
            assert (state.grants, state.quotas, state.damaged) == ((GRANT,), (QUOTA,), ())

    def test_a_damaged_version_keeps_nothing_from_being_changed(self, catalogue: Catalogue) -> None:
        catalogue.access.add_grant(GRANT)
        change(catalogue, f"UPDATE access_version SET version = {2**63 - 1}")
        assert catalogue.access.remove_grant(GRANT)
        assert catalogue.access.version() == 1

    # ---- Owners --------------------------------------------------------------------------------------------------------

    @keeps(2, 3)
    def test_what_an_owner_holds_is_counted_by_every_commit_and_deletion(self, catalogue: Catalogue) -> None:
        dataset, other = own(catalogue), own(catalogue, "other", "token:b")
        commit(catalogue, *(stored_tensor(dataset, f"t{n}", stored_bytes=10 + n) for n in range(200)))
        commit(catalogue, stored_tensor(other, "t", stored_bytes=2**40), stored_tensor(create(catalogue, "free"), "t"))
        assert held(catalogue) == (200, sum(range(10, 210)))
        assert held(catalogue, "token:b") == (1, 2**40)
        catalogue.tensors.delete("dataset", [f"t{n}" for n in range(3, 200)])
        assert held(catalogue) == (3, 33)
        catalogue.copies.copy_tensors(TensorCopies("dataset", "other", [("t0", "a")], move=True), lambda *_: None)
        assert (held(catalogue), held(catalogue, "token:b")) == ((2, 23), (2, 2**40 + 10))
        sizes = catalogue.sizes("dataset")
        assert held(catalogue) == (sizes.tensors, sizes.stored_bytes)
        with pytest.raises(RuntimeError):
            catalogue.copies.copy_tensors(TensorCopies("other", "dataset", [("a", "a")]), _refuse)
        assert held(catalogue) == (2, 23)

    def test_past_tensors_count_for_nobody(self, catalogue: Catalogue) -> None:
        dataset = own(catalogue)
        commit(catalogue, stored_tensor(dataset, "a", stored_bytes=5), stored_tensor(dataset, "b", stored_bytes=7))
        at = catalogue.snapshots.create("dataset", "s").generation
        catalogue.tensors.delete("dataset", ["a"])
        assert held(catalogue) == (1, 7)
        catalogue.tensors.restore("dataset", at, limit=10)
        assert held(catalogue) == (2, 12)

    def test_the_owner_stays_over_a_new_name_and_goes_with_the_dataset(self, catalogue: Catalogue) -> None:
        commit(catalogue, stored_tensor(own(catalogue), "a", stored_bytes=5))
        catalogue.copies.rename_dataset("dataset", "renamed")
        assert (catalogue.access.owner_of("renamed"), held(catalogue)) == ("token:a", (1, 5))
        create(catalogue, "dataset")
        assert catalogue.access.owner_of("dataset") == ""
        catalogue.datasets.delete("renamed")
        assert held(catalogue) == (0, 0)
        with pytest.raises(DatasetNotFoundError):
            catalogue.access.owner_of("renamed")
        assert purge(catalogue) == 1
        create(catalogue, "renamed")
        assert catalogue.access.owner_of("renamed") == ""
        assert catalogue.access.version() == 0

    def test_the_owner_of_a_copy_is_who_makes_it(self, catalogue: Catalogue) -> None:
        commit(catalogue, stored_tensor(own(catalogue), "a", stored_bytes=5))
        for name, owner in (("mine", "token:b"), ("free", "")):
            catalogue.copies.copy_dataset("dataset", name, at=None, tensors_max=9, owner=owner)
            assert catalogue.access.owner_of(name) == owner
        assert (held(catalogue), held(catalogue, "token:b")) == ((1, 5), (1, 5))

    def test_a_new_owner_holds_what_is_there(self, catalogue: Catalogue, reopen: Reopen) -> None:
        dataset = create(catalogue)
        commit(catalogue, *(stored_tensor(dataset, f"t{n}", stored_bytes=10) for n in range(5)))
        catalogue.access.set_owner("dataset", "token:a")
        catalogue.access.set_owner("dataset", "cert:b")
        catalogue = reopen()
        assert catalogue.access.owner_of("dataset") == "cert:b"
        assert catalogue.access.usage(["cert:b", "token:a"]) == {"cert:b": Usage(50, 5), "token:a": Usage()}
        catalogue.access.set_owner("dataset", "")
        assert (catalogue.access.owner_of("dataset"), held(catalogue, "cert:b")) == ("", (0, 0))

    def test_a_dataset_that_is_not_made_has_no_owner(self, catalogue: Catalogue) -> None:
        own(catalogue)
        with pytest.raises(AlreadyExistsError):
            own(catalogue, owner="token:b")
        assert catalogue.access.owner_of("dataset") == "token:a"

    def test_a_damaged_owner_is_named_and_can_be_set_again(self, catalogue: Catalogue) -> None:
        commit(catalogue, stored_tensor(own(catalogue), "a", stored_bytes=5))
        change(catalogue, "UPDATE owner SET principal = 'token:b', stored_bytes = -3e300, tensors = 1e300")
        assert ["owner of dataset number" in damage for damage in catalogue.access.state().damaged] == [True]
        with pytest.raises(DataCorruptError, match="owner of dataset number"):
            catalogue.access.owner_of("dataset")
        assert held(catalogue, "token:b") == (0, 0)
        # The sums do not get into the way of commits and deletions.
        commit(catalogue, stored_tensor(catalogue.datasets.get("dataset"), "b", stored_bytes=7))
        catalogue.tensors.delete("dataset", ["a"])
        catalogue.access.set_owner("dataset", "token:a")
        assert (held(catalogue), catalogue.access.state().damaged) == ((1, 7), ())


class _Model:
    """Tokens, grants and quotas in dicts; each step changes the catalogue, too."""

    def __init__(self, catalogue: Catalogue, choose: random.Random) -> None:
        self.tokens: dict[str, Token] = {}
        self.grants: set[Grant] = set()
        self.quotas: dict[str, Quota] = {}
        self.choose = choose
        self._table = catalogue.access

    def add_token(self, _: int) -> None:
        new = token(self.choose.randrange(6), expires_us=self.choose.choice([None, 30, 90]))
        if new.id in self.tokens:
            with pytest.raises(AlreadyExistsError):
                self._table.add_token(new)
        else:
            self._table.add_token(new)
            self.tokens[new.id] = new

    def revoke(self, now_us: int) -> None:
        token_id = token(self.choose.randrange(6)).id
        kept = self.tokens.get(token_id)
        if kept is not None and kept.revoked_us is None:
            self.tokens[token_id] = replace(kept, revoked_us=now_us)
        assert self._table.revoke_token(token_id, now_us) == self.tokens.get(token_id)

    def forget(self, now_us: int) -> None:
        before_us = now_us - 10
        ended = [
            kept.id
            for kept in self.tokens.values()
            if (kept.revoked_us is not None and kept.revoked_us < before_us)
            or (kept.expires_us is not None and kept.expires_us < before_us)
        ]
        assert self._table.forget_tokens(before_us) == len(ended)
        for token_id in ended:
            del self.tokens[token_id]

    def add_grant(self, _: int) -> None:
        grant = self._grant()
        assert self._table.add_grant(grant) == (grant not in self.grants)
        self.grants.add(grant)

    def remove_grant(self, _: int) -> None:
        grant = self._grant()
        assert self._table.remove_grant(grant) == (grant in self.grants)
        self.grants.discard(grant)

    def set_quota(self, _: int) -> None:
        quota = Quota(self._principal(), self.choose.choice([None, 1]), self.choose.choice([None, 2]))
        self._table.set_quota(quota)
        self.quotas.pop(quota.principal, None)
        if quota != Quota(quota.principal):
            self.quotas[quota.principal] = quota

    def _grant(self) -> Grant:
        return Grant(self._principal(), Scope(self.choose.choice(list(Role)), self.choose.choice(["*", "a", "a*"])))

    def _principal(self) -> str:
        return self.choose.choice(["token:a", "cert:b", "group:c"])


def _refuse(*_: object) -> None:
    raise RuntimeError

"""Listings, queries and samples: orders, page tokens, limits, and chances that are equal."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from support.cases import each
from support.engine import commit, engine_on, insert, stored_tensor
from tensorus_codecs.checksum import crc32c
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.catalogue.abc import ORDER_FIELDS, Order
from tensorus_server.engine import query as query_module
from tensorus_server.engine.engine import Engine
from tensorus_server.engine.query import Query, parse_order
from tensorus_server.errors import (
    DatasetNotFoundError,
    InvalidPageTokenError,
    InvalidRequestError,
    LimitExceededError,
)
from tensorus_server.filter.tree import AllOf, Compare, Exists, Filter, Key, Operator
from tensorus_server.limits import PAGE_SIZE_MAX, SAMPLE_MAX

ODD = Compare(Key("odd"), Operator.EQUAL, value=True)
TOO_DEEP: Filter = Exists(Key("a"))
for _ in range(8):
    TOO_DEEP = AllOf((TOO_DEEP,))

ORDERS = [
    ("", Order()),
    ("  ", Order()),
    *((field, Order(field)) for field in ORDER_FIELDS),
    *((f"{field} desc", Order(field, descending=True)) for field in ORDER_FIELDS),
    ("id asc", Order("id")),
    ("id DESC", Order("id", descending=True)),
    ("  nbytes   desc  ", Order("nbytes", descending=True)),
]

NO_ORDERS = ["ID", "name", "desc", "id, nbytes", "id desc desc", "id descending", "id;", "-id", "created_us"]


@each(("text", "order"), ORDERS)
def test_an_order_is_a_field_and_a_direction(text: str, order: Order) -> None:
    assert parse_order(text) == order


@each("text", NO_ORDERS)
def test_any_other_order_is_refused(text: str) -> None:
    message = f"order_by is '{text}', must be one of created, id, nbytes, stored_bytes, and may end in ' desc'"
    with pytest.raises(InvalidRequestError) as caught:
        parse_order(text)
    assert str(caught.value) == message


def fill(engine: Engine) -> None:
    """Commit 30 tensors to dataset "d": ids 0 to 29, every second one odd, sizes 0 to 4."""
    dataset = engine.get_dataset("d")
    tensors = (
        stored_tensor(
            dataset,
            f"{number}",
            shape=(number % 5,),
            metadata={"odd": bool(number % 2)},
            inline_payload=bytes(number % 5),
        )
        for number in range(30)
    )
    commit(engine._catalogue, *tensors)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine with 30 tensors that all tests share and none changes, and an empty dataset beside them."""
    with engine_on(tmp_path_factory.mktemp("filled") / "store") as opened:
        opened.create_dataset("d", StoragePolicy(preset="none"))
        opened.create_dataset("other")
        fill(opened)
        yield opened


@pytest.fixture
def changing(engine: Engine) -> Engine:
    """An engine with the same tensors, of one test alone."""
    fill(engine)
    return engine


def listed(engine: Engine, *, size: int, order: Order = Order(), filter_: Filter | None = None) -> list[list[str]]:  # noqa: B008 - frozen
    """Return the ids of every page."""
    pages, token = [], ""
    while True:
        tensors, token = engine.list_tensors("d", filter_, order, page_size=size, page_token=token)
        pages.append([tensor.id for tensor in tensors])
        if not token:
            return pages


def ids_of(engine: Engine, **fields: Any) -> list[str]:
    """Return the ids that a query of dataset "d" finds."""
    return [tensor.id for tensor in engine.select(Query("d", **fields), with_payloads=False)]


class TestListing:
    """Page by page, with tokens that fit one listing alone."""

    def test_pages_follow_each_other(self, filled: Engine) -> None:
        assert listed(filled, size=7) == [
            [f"{number}" for number in range(30)][begin : begin + 7] for begin in range(0, 30, 7)
        ]

    def test_there_is_no_empty_page_at_the_end(self, filled: Engine) -> None:
        assert [len(page) for page in listed(filled, size=15)] == [15, 15]

    def test_a_page_has_the_default_size_where_none_is_said(
        self, filled: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tensorus_server.engine.paging.PAGE_SIZE_DEFAULT", 8)
        assert [len(page) for page in listed(filled, size=0)] == [8, 8, 8, 6]

    def test_order_and_filter_go_together(self, filled: Engine) -> None:
        found = [
            name for page in listed(filled, size=4, order=Order("id", descending=True), filter_=ODD) for name in page
        ]
        assert found == sorted((f"{number}" for number in range(1, 30, 2)), reverse=True)

    def test_tensors_that_come_after_the_first_page_are_left_out(self, changing: Engine) -> None:
        first, token = changing.list_tensors("d", None, Order("id", descending=True), page_size=20)
        insert(changing, "d", "0000", np.zeros(3))
        second, end = changing.list_tensors("d", None, Order("id", descending=True), page_size=20, page_token=token)
        assert "0000" not in {tensor.id for tensor in (*first, *second)}
        assert (len(first), len(second), end) == (20, 10, "")

    def test_a_page_has_a_limit(self, filled: Engine) -> None:
        filled.list_tensors("d", None, Order(), page_size=PAGE_SIZE_MAX)
        with pytest.raises(LimitExceededError, match=r"page_size is 1001, limit is 1000 tensors \(page_size_max\)"):
            filled.list_tensors("d", None, Order(), page_size=PAGE_SIZE_MAX + 1)

    def test_a_filter_is_checked(self, filled: Engine) -> None:
        with pytest.raises(LimitExceededError, match="depth of the filter"):
            filled.list_tensors("d", TOO_DEEP, Order())

    def test_a_dataset_that_is_not_there_is_named(self, filled: Engine) -> None:
        with pytest.raises(DatasetNotFoundError, match="dataset=no"):
            filled.list_tensors("no", None, Order())

    @each(
        "other",
        [
            pytest.param({"dataset": "other"}, id="dataset"),
            pytest.param({"filter_": ODD}, id="filter"),
            pytest.param({"order": Order("id")}, id="order"),
            pytest.param({"order": Order("nbytes")}, id="order of the same kind"),
            pytest.param({"order": Order(descending=True)}, id="direction"),
        ],
    )
    def test_a_token_of_another_listing_is_refused(self, filled: Engine, other: dict[str, Any]) -> None:
        arguments: dict[str, Any] = {"dataset": "d", "filter_": None, "order": Order()}
        _, token = filled.list_tensors(**arguments, page_size=5)
        # Another size is the same listing.
        assert len(filled.list_tensors(**arguments, page_size=6, page_token=token)[0]) == 6
        with pytest.raises(InvalidPageTokenError, match="page_token "):
            filled.list_tensors(**(arguments | other), page_token=token)

    def test_a_token_of_an_equal_filter_fits(self, filled: Engine) -> None:
        _, token = filled.list_tensors("d", ODD, Order(), page_size=5)
        assert len(filled.list_tensors("d", replace(ODD), Order(), page_size=50, page_token=token)[0]) == 10


def encoded(fields: object) -> str:
    """Return fields as a token holds them."""
    return base64.urlsafe_b64encode(json.dumps(fields).encode()).decode()


def digest_of(order: Order) -> int:
    """Return what a forger can work out as well: the digest is a check of mistakes, and no signature."""
    return crc32c(repr(("d", None, order)).encode())


CREATED, BY_ID = digest_of(Order()), digest_of(Order("id"))

GARBAGE = {
    "no base64": "%%%",
    "base64 of nothing": "====",
    "a cut token": "WzEsIDIs",
    "no text": base64.urlsafe_b64encode(b"\xff\xfe").decode(),
    "no JSON": base64.urlsafe_b64encode(b"[1, 2").decode(),
    "a number": encoded(1),
    "a map": encoded({"a": 1, "b": 2, "c": 3, "d": 4}),
    "text": encoded("abcd"),
    "too few fields": encoded([CREATED, 1, 1]),
    "too many fields": encoded([CREATED, 1, 1, 1, 1]),
    "a text to sort by": encoded([CREATED, "1", 1, 1]),
    "a fraction to sort by": encoded([CREATED, 1.5, 1, 1]),
    "nothing to sort by": encoded([CREATED, None, 1, 1]),
    "a text as generation": encoded([CREATED, 1, "1", 1]),
    "no bound": encoded([CREATED, 1, 1, None]),
    "another digest": encoded([CREATED + 1, 1, 1, 1]),
    "no digest": encoded([None, 1, 1, 1]),
    "not ASCII": "ä\U0001f600",
    "a surrogate": "\ud800",
}

FORGED = {
    "a place beyond 64 bits": (Order(), encoded([CREATED, 10**30, 1, 1])),
    "a generation beyond 64 bits": (Order(), encoded([CREATED, 1, -(10**30), 1])),
    "a bound beyond 64 bits": (Order(), encoded([CREATED, 1, 1, 10**30])),
    "a text that is no Unicode": (Order("id"), encoded([BY_ID, "\ud800", 1, 1])),
    "lists in lists": (Order(), base64.urlsafe_b64encode(b"[" * 100_000).decode()),
    "a number of many digits": (Order(), base64.urlsafe_b64encode(b"[" + b"1" * 10_000 + b",1,1,1]").decode()),
}


class TestTokens:
    """A token is a position and no permission; whatever is sent as one, nothing unforeseen happens."""

    @each("token", GARBAGE.values(), ids=GARBAGE)
    def test_garbage_is_refused(self, filled: Engine, token: str) -> None:
        with pytest.raises(InvalidPageTokenError, match=r"page_token is not one that|page_token belongs to a listing"):
            filled.list_tensors("d", None, Order(), page_token=token)

    @each(("order", "token"), FORGED.values(), ids=FORGED)
    def test_a_forged_one_is_refused(self, filled: Engine, order: Order, token: str) -> None:
        with pytest.raises(InvalidPageTokenError, match="page_token"):
            filled.list_tensors("d", None, order, page_token=token)

    def test_a_forged_one_that_could_be_ours_sees_what_the_caller_may_see_anyway(self, filled: Engine) -> None:
        tensors, _ = filled.list_tensors("d", None, Order(), page_token=encoded([CREATED, -5, -5, 2**62]))
        assert len(tensors) == 30

    def test_every_cut_of_a_token_is_refused(self, filled: Engine) -> None:
        _, token = filled.list_tensors("d", None, Order(), page_size=5)
        for length in range(1, len(token)):
            with pytest.raises(InvalidPageTokenError):
                filled.list_tensors("d", None, Order(), page_token=token[:length])


class TestSelect:
    """All tensors of a query, in order, up to a limit."""

    def test_without_wishes_all_come_as_they_were_committed(self, filled: Engine) -> None:
        assert ids_of(filled) == [f"{number}" for number in range(30)]

    def test_filter_order_and_limit_go_together(self, filled: Engine) -> None:
        found = ids_of(filled, filter=ODD, order=Order("nbytes", descending=True), limit=4)
        # Ties by generation, in the order's direction.
        assert found == ["29", "19", "9", "23"]

    @each("limit", [0, 1, 29, 30, 31, 10**9])
    def test_a_limit_is_an_upper_bound(self, filled: Engine, limit: int) -> None:
        assert len(ids_of(filled, limit=limit)) == min(limit, 30)

    @pytest.mark.parametrize("with_payloads", [False, True])
    def test_payloads_come_along_where_they_are_asked_for(self, filled: Engine, *, with_payloads: bool) -> None:
        found = list(filled.select(Query("d"), with_payloads=with_payloads))
        assert {tensor.inline_payload is not None for tensor in found} == {with_payloads}

    def test_a_query_of_many_pages_misses_nothing(self, filled: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(query_module, "PAGE_SIZE_MAX", 4)
        monkeypatch.setattr(query_module, "_PAGE_WITH_PAYLOADS", 7)
        for with_payloads in (False, True):
            found = filled.select(Query("d", order=Order("id")), with_payloads=with_payloads)
            assert [tensor.id for tensor in found] == sorted(f"{number}" for number in range(30))

    def test_tensors_that_come_meanwhile_are_left_out_and_those_that_go_too(
        self, changing: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(query_module, "PAGE_SIZE_MAX", 4)
        found = iter(changing.select(Query("d"), with_payloads=False))
        first = next(found).id
        insert(changing, "d", "new", np.zeros(3))
        changing.delete_tensors("d", ["15"])
        assert [first, *(tensor.id for tensor in found)] == [f"{number}" for number in range(30) if number != 15]

    def test_a_filter_is_checked(self, filled: Engine) -> None:
        with pytest.raises(LimitExceededError, match="depth of the filter"):
            ids_of(filled, filter=TOO_DEEP)

    def test_a_dataset_that_is_not_there_is_refused_at_once(self, filled: Engine) -> None:
        with pytest.raises(DatasetNotFoundError, match="dataset=no"):
            filled.select(Query("no"), with_payloads=False)


class TestSample:
    """So many at random, each set of so many equally likely."""

    def test_a_seed_repeats_its_sample(self, filled: Engine) -> None:
        first = ids_of(filled, sample=10, seed=7)
        assert ids_of(filled, sample=10, seed=7) == first
        assert ids_of(filled, sample=10, seed=8) != first

    def test_without_a_seed_samples_differ(self, filled: Engine) -> None:
        # Of 30!/20! samples two are the same with a chance of 1 in 10**14.
        assert ids_of(filled, sample=10) != ids_of(filled, sample=10)

    @each("count", [0, 1, 29, 30, 31, SAMPLE_MAX])
    def test_nothing_comes_twice_and_never_more_than_there_is(self, filled: Engine, count: int) -> None:
        found = ids_of(filled, sample=count, seed=3)
        assert len(found) == len(set(found)) == min(count, 30)

    def test_a_sample_of_everything_is_in_random_order(self, filled: Engine) -> None:
        found = ids_of(filled, sample=30, seed=3)
        assert found != [f"{number}" for number in range(30)]
        assert sorted(found) == sorted(f"{number}" for number in range(30))

    def test_a_sample_is_of_what_the_filter_finds(self, filled: Engine) -> None:
        found = ids_of(filled, filter=ODD, sample=30, seed=1)
        assert sorted(found) == sorted(f"{number}" for number in range(1, 30, 2))

    def test_a_sample_may_be_limited(self, filled: Engine) -> None:
        assert ids_of(filled, sample=10, seed=7, limit=4) == ids_of(filled, sample=10, seed=7)[:4]

    def test_every_tensor_and_every_place_is_equally_likely(
        self, filled: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Pages of 7, so that the sample is drawn across them. 600 seeds, 5 of 30: each tensor is expected 100 times in all,
        # and 20 times in each place.
        monkeypatch.setattr(query_module, "_SAMPLE_PAGE", 7)
        samples = [ids_of(filled, sample=5, seed=seed) for seed in range(600)]
        names = [f"{number}" for number in range(30)]
        drawn = Counter(name for sample in samples for name in sample)
        assert chi_square(drawn, names, 100) < 58.3
        for place in range(5):
            assert chi_square(Counter(sample[place] for sample in samples), names, 20) < 58.3

    def test_a_sample_of_several_batches_of_rows_misses_nothing(
        self, filled: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(query_module, "_PAGE_WITH_PAYLOADS", 4)
        assert len(set(ids_of(filled, sample=30, seed=0))) == 30

    def test_a_tensor_that_goes_meanwhile_is_left_out(self, changing: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(query_module, "_PAGE_WITH_PAYLOADS", 1)
        expected = ids_of(changing, sample=30, seed=0)
        found = iter(changing.select(Query("d", sample=30, seed=0), with_payloads=False))
        first = next(found).id
        changing.delete_tensors("d", [expected[10]])
        assert [first, *(tensor.id for tensor in found)] == [name for name in expected if name != expected[10]]

    def test_a_sample_cannot_be_ordered(self, filled: Engine) -> None:
        with pytest.raises(InvalidRequestError, match="order_by and sample exclude each other"):
            ids_of(filled, sample=3, order=Order("id"))

    def test_a_sample_has_a_limit(self, filled: Engine) -> None:
        message = rf"sample is 1000001, limit is {SAMPLE_MAX} tensors \(sample_max\)"
        with pytest.raises(LimitExceededError, match=message) as caught:
            ids_of(filled, sample=SAMPLE_MAX + 1)
        assert caught.value.facts == {"limit": "1000000"}


def chi_square(counts: Counter[str], names: list[str], expected: float) -> float:
    """Return the statistic with 29 degrees of freedom; 58.3 is exceeded once in a thousand."""
    return sum((counts[name] - expected) ** 2 / expected for name in names)


QUERIES: dict[str, dict[str, Any]] = {
    "as committed": {},
    "by id, backwards": {"order": Order("id", descending=True)},
    "by size": {"order": Order("nbytes")},
    "with a limit": {"limit": 7},
    "a sample": {"sample": 9, "seed": 3},
    "a sample without a seed": {"sample": 9},
    "a sample with a limit": {"sample": 9, "seed": 3, "limit": 4},
}


@pytest.mark.parametrize("wish", QUERIES.values(), ids=QUERIES)
class TestResume:
    """A query that was interrupted anywhere goes on with what is left."""

    @pytest.mark.parametrize("page", [2, 64])
    def test_after_any_tensor(
        self, filled: Engine, wish: dict[str, Any], page: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(query_module, "_PAGE_WITH_PAYLOADS", page)
        selection = filled.select(Query("d", **wish), with_payloads=True)
        tokens = [""]
        ids = []
        for tensor in selection:
            ids.append(tensor.id)
            tokens.append(selection.token(selection.place))
        for count, token in enumerate(tokens[1:], 1):
            rest = filled.select(Query("d", **wish), with_payloads=True, resume_token=token)
            assert [tensor.id for tensor in rest] == ids[count:]

    def test_what_is_committed_meanwhile_is_left_out(self, changing: Engine, wish: dict[str, Any]) -> None:
        selection = changing.select(Query("d", **wish), with_payloads=False)
        tensors = iter(selection)
        ids = [next(tensors).id, next(tensors).id]
        token = selection.token(selection.place)
        expected = [tensor.id for tensor in tensors]
        insert(changing, "d", "later", np.zeros(3))
        rest = changing.select(Query("d", **wish), with_payloads=False, resume_token=token)
        assert [tensor.id for tensor in rest] == expected
        assert "later" not in ids

    def test_a_token_of_another_query_is_refused(self, filled: Engine, wish: dict[str, Any]) -> None:
        selection = filled.select(Query("d", **wish), with_payloads=False)
        token = selection.token(selection.place)
        with pytest.raises(InvalidPageTokenError, match="resume_token belongs to another query"):
            filled.select(Query("d", **{**wish, "limit": 1000}), with_payloads=False, resume_token=token)


class TestResumeOfASample:
    """A sample goes on with tensors that it has not shown, whatever happened meanwhile."""

    WISH = Query("d", sample=20, seed=2**64 - 1)

    def interrupted(self, engine: Engine, count: int) -> tuple[list[str], str]:
        """Return the ids of the first tensors of the sample, and the token after them."""
        selection = engine.select(self.WISH, with_payloads=False)
        tensors = iter(selection)
        ids = [next(tensors).id for _ in range(count)]
        return ids, selection.token(selection.place)

    @pytest.mark.parametrize("count", [1, 7, 19, 20])
    @pytest.mark.parametrize("which", ["shown", "to come", "not chosen"])
    def test_no_tensor_comes_twice_after_a_deletion(self, changing: Engine, count: int, which: str) -> None:
        whole = ids_of(changing, sample=20, seed=self.WISH.seed)
        ids, token = self.interrupted(changing, count)
        assert ids == whole[:count]
        others = {f"{number}" for number in range(30)} - set(whole)
        gone = {"shown": ids[:1], "to come": whole[count:][:1], "not chosen": sorted(others)[:3]}[which]
        changing.delete_tensors("d", gone)
        rest = [tensor.id for tensor in changing.select(self.WISH, with_payloads=False, resume_token=token)]
        assert len(ids + rest) == len(set(ids + rest)) == 20
        assert not set(rest) & set(gone)
        assert rest[: 20 - count - 1] == [name for name in whole[count:] if name not in gone][: 20 - count - 1]

    def test_what_a_filter_finds_only_now_is_shown_once_at_most(self, changing: Engine) -> None:
        wish = Query("d", filter=ODD, sample=12, seed=1)
        selection = changing.select(wish, with_payloads=False)
        tensors = iter(selection)
        ids = [next(tensors).id for _ in range(5)]
        token = selection.token(selection.place)
        for number in range(30):
            changing.update_metadata("d", f"{number}", {"odd": number % 3 > 0})
        rest = [tensor.id for tensor in changing.select(wish, with_payloads=False, resume_token=token)]
        assert not set(ids) & set(rest)

    def test_a_forged_place_harms_nothing(self, filled: Engine) -> None:
        _, token = self.interrupted(filled, 1)
        digest, _, bound, seed, *_ = json.loads(base64.urlsafe_b64decode(token))
        for served, generation in ((10**9, 5), (-(10**9), -5), (0, 2**62)):
            forged = encoded([digest, served, bound, seed, generation, generation])
            found = [tensor.id for tensor in filled.select(self.WISH, with_payloads=False, resume_token=forged)]
            assert len(found) == len(set(found)) <= 30


@each(
    "fields",
    [[], [1], [1, 2, 3, 4, 5], [1, 0, 5, 5, "x", 3], [1, 0, 5, 5, 2**64, 3], [1, -(2**70), 5, 5, None, None], {"a": 1}],
)
def test_a_forged_resume_token_is_refused(filled: Engine, fields: Any) -> None:
    token = base64.urlsafe_b64encode(json.dumps(fields).encode()).decode()
    with pytest.raises(InvalidPageTokenError, match="resume_token"):
        filled.select(Query("d"), with_payloads=False, resume_token=token)

"""What every catalogue promises of listings, page by page, while tensors come and go; a class of tests as the others."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from contract.catalogue_promises import keeps
from support.cases import each
from support.engine import commit, create, stored_tensor
from tensorus_server.catalogue.abc import ORDER_FIELDS, Catalogue, Order, PageRequest, StoredTensor
from tensorus_server.filter.tree import Compare, Key, Operator
from tensorus_server.model import Dataset, Tensor

ORDERS = [Order(field, descending) for field in ORDER_FIELDS for descending in (False, True)]


def varied(dataset: Dataset, tensor_id: str, source: random.Random) -> StoredTensor:
    """Return a tensor with one of few sizes, so that many are equal in every order but by generation."""
    return stored_tensor(
        dataset, tensor_id, shape=(source.randrange(4),), stored_bytes=source.randrange(3), metadata={"even": True}
    )


def sort_key(tensor: Tensor, order: Order) -> tuple[str | int | bytes, int]:
    """Return what an order compares, and the generation, which decides between equals."""
    values: dict[str, str | int | bytes] = {
        "created": tensor.generation,
        # By code point, which is by UTF-8 byte.
        "id": tensor.id.encode(),
        "nbytes": tensor.storage.canonical_bytes,
        "stored_bytes": tensor.storage.stored_bytes,
    }
    return values[order.field], tensor.generation


def all_pages(catalogue: Catalogue, request: PageRequest) -> list[list[Tensor]]:
    """Return the tensors of every page from the request's on."""
    pages = []
    while True:
        page = catalogue.tensors.page("dataset", request)
        pages.append(page.tensors)
        if page.next is None:
            return pages
        request = replace(request, after=page.next)


class CataloguePagingContract:
    """What every catalogue promises of listings. A subclass supplies the fixture `catalogue`."""

    @pytest.fixture
    def tensors(self, catalogue: Catalogue) -> list[Tensor]:
        """Return 40 tensors of few sizes, ids in no order, text beyond ASCII among them."""
        source = random.Random(1)
        dataset = create(catalogue)
        ids = ["a", "B", "b", "Z", "ä", "\ue000", "\U0001f600", *(f"{number}" for number in range(33))]
        source.shuffle(ids)
        committed = commit(catalogue, *(varied(dataset, tensor_id, source) for tensor_id in ids))
        other = create(catalogue, "other")
        commit(catalogue, *(varied(other, tensor_id, source) for tensor_id in ids))
        return committed

    @each("order", ORDERS)
    def test_the_pages_of_a_listing_are_its_tensors_in_order(
        self, catalogue: Catalogue, tensors: list[Tensor], order: Order
    ) -> None:
        expected = sorted(tensors, key=lambda tensor: sort_key(tensor, order), reverse=order.descending)
        # Every page but the last is full, and there is no empty one at the end.
        for size, sizes in ((1, [1] * 40), (7, [7] * 5 + [5]), (39, [39, 1]), (40, [40]), (41, [40])):
            pages = all_pages(catalogue, PageRequest(order=order, size=size))
            assert [tensor for page in pages for tensor in page] == expected
            assert [len(page) for page in pages] == sizes

    @pytest.mark.parametrize("with_payloads", [False, True])
    def test_pages_of_large_tensors_are_shorter_and_miss_nothing(
        self, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch, *, with_payloads: bool
    ) -> None:
        monkeypatch.setattr("tensorus_server.catalogue.sql.row_page.PAGE_READ_BYTES", 1000)
        dataset = create(catalogue)
        committed = commit(
            catalogue,
            *(
                stored_tensor(
                    dataset,
                    f"{number}",
                    metadata={"a": "x" * (5000 if number == 7 else 290)} if number % 2 else {},
                    inline_payload=b"x" * (5000 if number == 8 else 290) if with_payloads else None,
                )
                for number in range(20)
            ),
        )
        for order in ORDERS:
            pages = all_pages(catalogue, PageRequest(order=order, size=15, with_payloads=with_payloads))
            found = [tensor.id for page in pages for tensor in page]
            expected = sorted(committed, key=lambda tensor: sort_key(tensor, order), reverse=order.descending)
            assert found == [tensor.id for tensor in expected], order
            assert all(pages), order
            # A page ends with the tensor that takes it to its bound.
            assert max(map(len, pages)) <= (4 if with_payloads else 8), order

    def test_a_listing_of_nothing_is_one_empty_page(self, catalogue: Catalogue) -> None:
        create(catalogue)
        assert all_pages(catalogue, PageRequest()) == [[]]

    @keeps(8)
    @each("order", ORDERS)
    def test_no_tensor_comes_twice_and_none_is_missed_while_others_come_and_go(
        self, catalogue: Catalogue, tensors: list[Tensor], order: Order
    ) -> None:
        source = random.Random(repr(order))
        dataset = catalogue.datasets.get("dataset")
        # What the order before has left.
        (tensors,) = all_pages(catalogue, PageRequest(size=1000))
        assert len(tensors) > 10
        present = {tensor.id for tensor in tensors}
        at_start = {tensor.generation for tensor in tensors}
        deleted: set[int] = set()
        seen: list[Tensor] = []
        request = PageRequest(order=order, size=3, generation_max=catalogue.tensors.latest_generation())
        while True:
            page = catalogue.tensors.page("dataset", request)
            seen += page.tensors
            if page.next is None:
                break
            request = replace(request, after=page.next)
            for name in source.sample(sorted(present), 2):
                (found,) = catalogue.tensors.get("dataset", [name])
                assert found is not None
                deleted.add(found.generation)
                present.remove(name)
                catalogue.tensors.delete("dataset", [name])
            for _ in range(2):
                # An id that has gone may come back: as another tensor, of another generation.
                name = f"{source.randrange(100)}"
                if name not in present:
                    commit(catalogue, varied(dataset, name, source))
                    present.add(name)
        generations = [tensor.generation for tensor in seen]
        assert len(set(generations)) == len(generations)
        assert at_start - deleted <= set(generations) <= at_start
        keys = [sort_key(tensor, order) for tensor in seen]
        assert keys == sorted(keys, reverse=order.descending)

    @keeps(6)
    @each("order", ORDERS)
    def test_tensors_of_later_generations_are_left_out(
        self, catalogue: Catalogue, tensors: list[Tensor], order: Order
    ) -> None:
        bound = tensors[20].generation
        pages = all_pages(catalogue, PageRequest(order=order, size=6, generation_max=bound))
        assert {tensor.id for page in pages for tensor in page} == {tensor.id for tensor in tensors[:21]}

    def test_a_listing_from_before_the_first_tensor_is_empty(self, catalogue: Catalogue, tensors: list[Tensor]) -> None:
        # The bound of a listing that began when the catalogue was empty is 0, and that is a bound.
        request = PageRequest(generation_max=0)
        assert all_pages(catalogue, request) == [[]]
        assert catalogue.tensors.generations("dataset", request) == []

    @each("order", ORDERS)
    def test_pages_of_a_filter_hold_what_it_finds(
        self, catalogue: Catalogue, tensors: list[Tensor], order: Order
    ) -> None:
        for tensor in tensors[::3]:
            catalogue.tensors.replace_metadata("dataset", tensor.id, {"even": False})
        filter_ = Compare(Key("even"), Operator.EQUAL, value=True)
        pages = all_pages(catalogue, PageRequest(filter_, order, 5))
        found = [tensor.id for page in pages for tensor in page]
        rest = [tensor for number, tensor in enumerate(tensors) if number % 3]
        expected = sorted(rest, key=lambda tensor: sort_key(tensor, order), reverse=order.descending)
        assert found == [tensor.id for tensor in expected]

    @each("order", ORDERS)
    def test_generations_ascend_whatever_the_order(
        self, catalogue: Catalogue, tensors: list[Tensor], order: Order
    ) -> None:
        catalogue.tensors.delete("dataset", [tensors[3].id])
        expected = [tensor.generation for tensor in tensors if tensor is not tensors[3]]
        assert catalogue.tensors.generations("dataset", PageRequest(order=order, size=1000)) == expected

    def test_generations_come_page_by_page(self, catalogue: Catalogue, tensors: list[Tensor]) -> None:
        found: list[int] = []
        request = PageRequest(size=7, generation_max=tensors[30].generation)
        while True:
            page = catalogue.tensors.generations("dataset", request)
            found += page
            if len(page) < 7:
                break
            request = replace(request, after=(page[-1], page[-1]))
        assert found == [tensor.generation for tensor in tensors[:31]]

    def test_generations_of_a_filter_are_those_of_what_it_finds(
        self, catalogue: Catalogue, tensors: list[Tensor]
    ) -> None:
        catalogue.tensors.replace_metadata("dataset", tensors[5].id, {"odd": 1})
        request = PageRequest(Compare(Key("odd"), Operator.EQUAL, 1))
        assert catalogue.tensors.generations("dataset", request) == [tensors[5].generation]

"""Which tensors a listing or a query names: filter → pages of the catalogue → tensors.

A page token carries the place where the listing goes on, and a digest of everything that must be the same in the next
request: it is a position, not a permission.
"""

from __future__ import annotations

import base64
import binascii
import json
import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tensorus_codecs.checksum import crc32c
from tensorus_server.catalogue.abc import ORDER_FIELDS, Order, PageRequest
from tensorus_server.errors import InvalidPageTokenError, InvalidRequestError, LimitExceededError
from tensorus_server.filter import check_filter
from tensorus_server.limits import PAGE_SIZE_MAX, SAMPLE_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tensorus_server.catalogue.abc import TensorTable
    from tensorus_server.filter import Filter
    from tensorus_server.model import Tensor

__all__ = ["Query", "list_page", "parse_order", "select_tensors"]

_PAGE_WITH_PAYLOADS = 64
"""Tensors of a page that brings inline payloads along: 4 MiB at most."""

_SAMPLE_PAGE = 10_000
"""Generations that are looked at in one statement when sampling."""


@dataclass(frozen=True)
class Query:
    """Which tensors of a dataset, and in which order."""

    dataset: str
    filter: Filter | None = None
    """None: all."""
    order: Order | None = None
    """None: as they were committed."""
    limit: int | None = None
    """At most so many; None: all."""
    sample: int | None = None
    """So many at random, in random order; None: all."""
    seed: int | None = None
    """For `sample`: the same seed and the same tensors give the same sample. None: another one every time."""


def parse_order(text: str) -> Order:
    """Return the order that `text` names: a field, then "desc" where descending; empty: "created".

    Raises:
        InvalidRequestError: no field is called so.
    """
    field, _, direction = (text.strip() or "created").partition(" ")
    if field not in ORDER_FIELDS or direction.strip().lower() not in {"", "asc", "desc"}:
        raise InvalidRequestError(
            f"order_by is {text!r}, must be one of {', '.join(ORDER_FIELDS)}, and may end in ' desc'"
        )
    return Order(field, direction.strip().lower() == "desc")


def select_tensors(tensors: TensorTable, query: Query, *, with_payloads: bool) -> Iterator[Tensor]:
    """Yield the tensors of `query`; each once, and none that was committed after this began.

    Raises:
        InvalidRequestError: a sample cannot be ordered.
        LimitExceededError: the filter or the sample is too large, or a statement took too long.
    """
    if query.filter is not None:
        check_filter(query.filter)
    if query.sample is None:
        found = _pages(tensors, query, with_payloads=with_payloads)
    else:
        found = _sampled(tensors, query, with_payloads=with_payloads)
    for count, tensor in enumerate(found):
        if query.limit is not None and count >= query.limit:
            return
        yield tensor


def list_page(
    tensors: TensorTable, dataset: str, filter_: Filter | None, order: Order, *, size: int, token: str
) -> tuple[list[Tensor], str]:
    """Return one page of a listing and the token of the next; it is empty where this was the last.

    Raises:
        InvalidPageTokenError: the token belongs to another listing, or is none of ours.
        LimitExceededError: the page or the filter is too large, or a statement took too long.
    """
    if filter_ is not None:
        check_filter(filter_)
    if size > PAGE_SIZE_MAX:
        raise LimitExceededError(
            f"page_size is {size}, limit is {PAGE_SIZE_MAX} tensors (page_size_max)",
            dataset=dataset,
            limit=PAGE_SIZE_MAX,
        )
    digest = crc32c(repr((dataset, filter_, order)).encode())
    if token:
        after, generation_max = _parse_token(token, digest, order)
        request = PageRequest(filter_, order, size, after=after, generation_max=generation_max)
    else:
        request = PageRequest(filter_, order, size, generation_max=tensors.latest_generation())
    page = tensors.page(dataset, request)
    if page.next is None:
        return page.tensors, ""
    return page.tensors, _format_token(digest, page.next, request.generation_max)


def _pages(tensors: TensorTable, query: Query, *, with_payloads: bool) -> Iterator[Tensor]:
    size = _PAGE_WITH_PAYLOADS if with_payloads else PAGE_SIZE_MAX
    if query.limit is not None:
        size = max(1, min(size, query.limit))
    request = PageRequest(
        query.filter,
        query.order or Order(),
        size,
        generation_max=tensors.latest_generation(),
        with_payloads=with_payloads,
    )
    while True:
        page = tensors.page(query.dataset, request)
        yield from page.tensors
        if page.next is None:
            return
        request = replace(request, after=page.next)


def _sampled(tensors: TensorTable, query: Query, *, with_payloads: bool) -> Iterator[Tensor]:
    if query.order is not None:
        raise InvalidRequestError("order_by and sample exclude each other: a sample comes in random order")
    if query.sample is None or query.sample > SAMPLE_MAX:
        raise LimitExceededError(
            f"sample is {query.sample}, limit is {SAMPLE_MAX} tensors (sample_max)", limit=SAMPLE_MAX
        )
    chosen = _reservoir(_generations(tensors, query), query.sample, random.Random(query.seed))  # noqa: S311 - no secret
    for start in range(0, len(chosen), _PAGE_WITH_PAYLOADS):
        page = chosen[start : start + _PAGE_WITH_PAYLOADS]
        found = tensors.by_generation(query.dataset, page, with_payloads=with_payloads)
        yield from (tensor for tensor in found if tensor is not None)


def _generations(tensors: TensorTable, query: Query) -> Iterator[int]:
    request = PageRequest(query.filter, size=_SAMPLE_PAGE, generation_max=tensors.latest_generation())
    while True:
        page = tensors.generations(query.dataset, request)
        yield from page
        if len(page) < _SAMPLE_PAGE:
            return
        request = replace(request, after=(page[-1], page[-1]))


def _reservoir(items: Iterator[int], count: int, source: random.Random) -> list[int]:
    """Return `count` of the items, each set of so many equally likely, in random order. Source: Vitter's algorithm R."""
    chosen: list[int] = []
    for index, item in enumerate(items):
        if index < count:
            chosen.append(item)
        else:
            place = source.randrange(index + 1)
            if place < count:
                chosen[place] = item
    source.shuffle(chosen)
    return chosen


def _format_token(digest: int, after: tuple[str | int, int], generation_max: int | None) -> str:
    return base64.urlsafe_b64encode(json.dumps([digest, *after, generation_max]).encode()).decode()


def _parse_token(token: str, digest: int, order: Order) -> tuple[tuple[str | int, int], int]:
    try:
        fields = json.loads(base64.urlsafe_b64decode(token.encode()))
        found_digest, sort_value, generation, generation_max = fields
        if isinstance(sort_value, str):
            # Raises where it is no Unicode: no id is that.
            sort_value.encode()
    except (binascii.Error, ValueError, TypeError, RecursionError) as error:
        raise InvalidPageTokenError("page_token is not one that this server gave") from error
    is_place = isinstance(sort_value, str) if order.field == "id" else _is_int64(sort_value)
    if not (is_place and _is_int64(generation) and _is_int64(generation_max)):
        raise InvalidPageTokenError("page_token is not one that this server gave")
    if found_digest != digest:
        raise InvalidPageTokenError("page_token belongs to a listing with another dataset, filter or order")
    return (sort_value, generation), generation_max


def _is_int64(value: object) -> bool:
    return isinstance(value, int) and -(2**63) <= value < 2**63

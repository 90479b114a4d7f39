"""Selects the tensors of a listing or a query: filter → pages of the catalogue → tensors.

A token holds the position where a listing or a query continues, the generation of its state, and a digest of the parameters
that the next request must repeat. So all pages are of one state, even if it was requested by time.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any, TypeAlias

from tensorus_codecs.checksum import crc32c
from tensorus_server.catalogue.abc import ORDER_FIELDS, DamagedTensor, Order, PageRequest, place_of
from tensorus_server.engine.paging import checked_page_size, decode_token, encode_token, take_all
from tensorus_server.engine.sampling import sample
from tensorus_server.errors import DataCorruptError, InvalidPageTokenError, InvalidRequestError, LimitExceededError
from tensorus_server.filter.tree import check_filter
from tensorus_server.limits import PAGE_SIZE_MAX, SAMPLE_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tensorus_server.catalogue.abc import TensorTable
    from tensorus_server.filter.tree import Filter
    from tensorus_server.model import At, Tensor

__all__ = ["Place", "Query", "Selection", "list_page", "parse_order"]

GenerationOf: TypeAlias = "Callable[[str, At], int]"
"""Returns the generation of a dataset's state."""

Place: TypeAlias = "tuple[int, tuple[str | int, int] | None]"
"""The number of tensors so far, and the sort value and generation of the last one."""

_PAGE_WITH_PAYLOADS = 64
"""Tensors of a page that includes inline payloads, which are 4 MiB at most."""

_SAMPLE_PAGE = 10_000
"""Generations that one statement reads for a sample."""


@dataclass(frozen=True)
class Query:
    """Which tensors of a dataset, and in which order."""

    dataset: str
    filter: Filter | None = None
    """None: all tensors match."""
    order: Order | None = None
    """None: the order of commits."""
    limit: int | None = None
    """Largest number of tensors to return; None: no limit."""
    sample: int | None = None
    """Number of randomly chosen tensors, returned in random order; None: all."""
    seed: int | None = None
    """Makes the sample reproducible: the same seed and the same tensors give the same sample. None: a random seed."""
    at: At | None = None
    """The state of the dataset to select from; None: the current one."""


def parse_order(text: str) -> Order:
    """Parse an order: a field, optionally followed by "asc" or "desc"; an empty text means "created".

    Raises:
        InvalidRequestError: the field or the direction does not exist.
    """
    field, _, direction = (text.strip() or "created").partition(" ")
    if field not in ORDER_FIELDS or direction.strip().lower() not in {"", "asc", "desc"}:
        raise InvalidRequestError(
            f"order_by is {text!r}, must be one of {', '.join(ORDER_FIELDS)}, and may end in ' desc'"
        )
    return Order(field, direction.strip().lower() == "desc")


class Selection:
    """Iterates over the tensors of one query, in order; can resume an interrupted one."""

    def __init__(
        self,
        tensors: TensorTable,
        query: Query,
        *,
        with_payloads: bool,
        resume_token: str = "",
        generation_of: GenerationOf | None = None,
    ) -> None:
        """Check the query; no tensor is read before iteration starts.

        Args:
            generation_of: see `Snapshots.generation_of`; must be given if the query has a state.
            resume_token: a result of `token`; iteration continues after that place. Empty: it starts at the beginning.

        Raises:
            InvalidRequestError: the query has both an order and a sample.
            InvalidPageTokenError: the token belongs to another query, or was not issued by this server.
            LimitExceededError: the filter or the sample is too large.
        """
        if query.filter is not None:
            check_filter(query.filter)
        _require_sample(query)
        self._tensors = tensors
        self._query = query
        self._with_payloads = with_payloads
        self._order = query.order or Order()
        asked = (query.dataset, query.filter, query.order, query.limit, query.sample, query.seed)
        # A query without a state has the digest that it has always had.
        self._digest = crc32c(repr(asked if query.at is None else (*asked, query.at)).encode(errors="surrogatepass"))
        self._served, self._after = 0, None
        if resume_token:
            self._served, self._after, self._generation_max, self._seed = self._parse(resume_token)
        else:
            self._generation_max = _generation_max(tensors, query.dataset, query.at, generation_of)
            # A random seed is chosen here, so that the token can carry it and a resumed sample is the same one.
            self._seed = secrets.randbits(62) if query.seed is None else query.seed

    def __iter__(self) -> Iterator[Tensor | DataCorruptError]:
        """Yield each tensor once, but none that was committed after the query began, even if it is resumed later.

        For a damaged tensor, the error is yielded in its place and counts towards the limit.

        Raises:
            LimitExceededError: a statement took too long.
        """
        found = self._pages() if self._query.sample is None else self._sampled()
        limit = self._query.limit
        if limit is not None and self._served >= limit:
            return
        for tensor in found:
            self._served += 1
            self._after = place_of(tensor, self._order.field)
            yield tensor.error if isinstance(tensor, DamagedTensor) else tensor
            if limit is not None and self._served >= limit:
                return

    @property
    def place(self) -> Place:
        """The position after the last tensor that was yielded."""
        return self._served, self._after

    def token(self, place: Place) -> str:
        """Return a token with which another selection of the same query continues after `place`."""
        served, after = place
        return encode_token([self._digest, served, self._generation_max, self._seed, *(after or (None, None))])

    def _parse(self, token: str) -> tuple[int, tuple[str | int, int] | None, int, int]:
        fields = decode_token(token, "resume_token")
        numbers, after = fields[:4], tuple(fields[4:])
        in_place = after == (None, None) or (len(after) == 2 and _is_place(after, self._order))
        # The other numbers come from SQLite and are signed; the seed may come from the caller and is unsigned.
        if len(numbers) != 4 or not all(map(_is_int64, numbers[:3])) or not _is_uint64(numbers[3]) or not in_place:
            raise InvalidPageTokenError("resume_token was not issued by this server")
        digest, served, generation_max, seed = numbers
        if digest != self._digest:
            raise InvalidPageTokenError("resume_token belongs to another query")
        return served, after if after != (None, None) else None, generation_max, seed

    @property
    def _at(self) -> int | None:
        """The generation of the query's state; None: the current one."""
        return None if self._query.at is None else self._generation_max

    def _pages(self) -> Iterator[Tensor | DamagedTensor]:
        query = self._query
        size = _PAGE_WITH_PAYLOADS if self._with_payloads else PAGE_SIZE_MAX
        if query.limit is not None:
            size = max(1, min(size, query.limit))
        request = PageRequest(
            query.filter,
            self._order,
            size,
            after=self._after,
            generation_max=self._generation_max,
            at=self._at,
            with_payloads=self._with_payloads,
        )
        while True:
            page = self._tensors.page(query.dataset, request)
            yield from page.tensors
            if page.next is None:
                return
            request = replace(request, after=page.next)

    def _sampled(self) -> Iterator[Tensor | DamagedTensor]:
        query = self._query
        assert query.sample is not None
        # The bounds protect against forged tokens.
        count = max(query.sample - self._served, 0)
        after = None if self._after is None else max(self._after[1], 0)
        chosen = sample(self._generations(), count, self._seed, after=after)
        for start in range(0, len(chosen), _PAGE_WITH_PAYLOADS):
            page = chosen[start : start + _PAGE_WITH_PAYLOADS]
            found = self._tensors.by_generation(query.dataset, page, with_payloads=self._with_payloads, at=self._at)
            for generation, tensor in zip(page, found, strict=True):
                if isinstance(tensor, DataCorruptError):
                    yield DamagedTensor(tensor, generation, generation)
                elif tensor is not None:
                    yield tensor

    def _generations(self) -> Iterator[list[int]]:
        generation_max = self._generation_max
        request = PageRequest(self._query.filter, size=_SAMPLE_PAGE, generation_max=generation_max, at=self._at)
        while True:
            page = self._tensors.generations(self._query.dataset, request)
            yield page
            if len(page) < _SAMPLE_PAGE:
                return
            request = replace(request, after=(page[-1], page[-1]))


def list_page(
    tensors: TensorTable,
    dataset: str,
    filter_: Filter | None,
    order: Order,
    *,
    size: int,
    token: str,
    take: Callable[[Tensor | DataCorruptError], bool] = take_all,
    at: At | None = None,
    generation_of: GenerationOf | None = None,
) -> tuple[list[Tensor | DataCorruptError], str]:
    """Return one page of a listing, and the token of the next page, which is empty after the last.

    A damaged tensor is returned as an error in its place.

    Args:
        size: largest number of tensors in the page; 0: the default.
        take: called with the page's tensors in order; the first for which it returns False starts the next page.
        at: the state to list; None: the current one.
        generation_of: see `Snapshots.generation_of`; must be given with `at`.

    Raises:
        InvalidPageTokenError: the token belongs to another listing, or was not issued by this server.
        LimitExceededError: the page or the filter is too large, or a statement took too long.
    """
    if filter_ is not None:
        check_filter(filter_)
    size = checked_page_size(size, "tensors", dataset=dataset)
    asked = (dataset, filter_, order)
    digest = crc32c(repr(asked if at is None else (*asked, at)).encode(errors="surrogatepass"))
    if token:
        after, generation_max = _parse_token(token, digest, order)
        request = PageRequest(filter_, order, size, after=after, generation_max=generation_max)
    else:
        generation_max = _generation_max(tensors, dataset, at, generation_of)
        request = PageRequest(filter_, order, size, generation_max=generation_max)
    if at is not None:
        request = replace(request, at=generation_max)
    page = tensors.page(dataset, request)
    taken = list(takewhile(take, map(_found, page.tensors)))
    following = page.next
    if len(taken) < len(page.tensors):
        following = place_of(page.tensors[len(taken) - 1], order.field)
    return taken, "" if following is None else _format_token(digest, following, request.generation_max)


def _generation_max(tensors: TensorTable, dataset: str, at: At | None, generation_of: GenerationOf | None) -> int:
    """Return the largest generation that a listing may include: that of its state, or the latest one."""
    if at is None:
        return tensors.latest_generation()
    assert generation_of is not None
    return generation_of(dataset, at)


def _found(tensor: Tensor | DamagedTensor) -> Tensor | DataCorruptError:
    return tensor.error if isinstance(tensor, DamagedTensor) else tensor


def _require_sample(query: Query) -> None:
    if query.sample is None:
        return
    if query.order is not None:
        raise InvalidRequestError("order_by and sample exclude each other: a sample comes in random order")
    if query.sample > SAMPLE_MAX:
        raise LimitExceededError(
            f"sample is {query.sample}, limit is {SAMPLE_MAX} tensors (sample_max)", limit=SAMPLE_MAX
        )


def _format_token(digest: int, after: tuple[str | int, int], generation_max: int | None) -> str:
    return encode_token([digest, *after, generation_max])


def _parse_token(token: str, digest: int, order: Order) -> tuple[tuple[str | int, int], int]:
    fields = decode_token(token, "page_token")
    if len(fields) != 4 or not _is_place(fields[1:3], order) or not _is_int64(fields[3]):
        raise InvalidPageTokenError("page_token was not issued by this server")
    found_digest, sort_value, generation, generation_max = fields
    if found_digest != digest:
        raise InvalidPageTokenError("page_token belongs to a listing with another dataset, filter or order")
    return (sort_value, generation), generation_max


def _is_place(after: Sequence[Any], order: Order) -> bool:
    """Whether a pair from a token has the types of a sort value of `order` and a generation."""
    value, generation = after
    if order.field == "id":
        # JSON can express lone surrogates, which no id contains and SQLite does not accept.
        return isinstance(value, str) and not any("\ud800" <= c <= "\udfff" for c in value) and _is_int64(generation)
    return _is_int64(value) and _is_int64(generation)


def _is_uint64(value: object) -> bool:
    return isinstance(value, int) and 0 <= value < 2**64


def _is_int64(value: object) -> bool:
    return isinstance(value, int) and -(2**63) <= value < 2**63

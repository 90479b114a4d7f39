"""Pages of listings: tokens that say where the next page starts, and answers that are limited by bytes as well as by count.

A token holds a position, and a digest of the parameters that the next request must repeat. It is not a credential.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from tensorus_server.errors import InvalidPageTokenError, LimitExceededError
from tensorus_server.limits import ANSWER_BYTES_MAX, PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["Answer", "answers", "checked_page_size", "decode_place", "decode_token", "encode_token", "take_all"]

_ENTRY_OVERHEAD_BYTES = 6
"""Largest size of an entry's tag and length in a repeated field, for entries below 32 GiB."""


class Sized(Protocol):
    """Anything with a serialized size; protobuf messages are."""

    def ByteSize(self) -> int:  # noqa: N802 - protobuf's name
        """Return its serialized size in bytes."""


T = TypeVar("T")
M = TypeVar("M", bound=Sized)


class Answer(Generic[T, M]):
    """The entries of one answer: as many as fit into `ANSWER_BYTES_MAX`, but at least one."""

    def __init__(self, convert: Callable[[T], M]) -> None:
        """Start empty; `convert` turns a value into its message."""
        self.entries: list[M] = []
        self._convert = convert
        self._size = 0

    def take(self, value: T) -> bool:
        """Add the value and return True; if it no longer fits, change nothing and return False."""
        entry = self._convert(value)
        size = self._size + entry.ByteSize() + _ENTRY_OVERHEAD_BYTES
        if self.entries and size > ANSWER_BYTES_MAX:
            return False
        self.entries.append(entry)
        self._size = size
        return True


def answers(values: Iterable[T], convert: Callable[[T], M]) -> Iterator[list[M]]:
    """Yield the entries of all values, split over as many answers as they need; at least one, which may be empty."""
    answer = Answer(convert)
    for value in values:
        if not answer.take(value):
            yield answer.entries
            answer = Answer(convert)
            answer.take(value)
    yield answer.entries


def take_all(_: object) -> bool:
    """Accept every entry of a page, so that only the count limits it."""
    return True


def checked_page_size(page_size: int, entries: str, *, dataset: str | None = None) -> int:
    """Return the largest number of entries of a page; 0 stands for the default.

    Args:
        entries: what the entries are called in the message.
        dataset: the dataset's name, for the message.

    Raises:
        LimitExceededError: the size is above `PAGE_SIZE_MAX`.
    """
    if page_size > PAGE_SIZE_MAX:
        raise LimitExceededError(
            f"page_size is {page_size}, limit is {PAGE_SIZE_MAX} {entries} (page_size_max)",
            dataset=dataset,
            limit=PAGE_SIZE_MAX,
        )
    return page_size or PAGE_SIZE_DEFAULT


def encode_token(fields: list[Any]) -> str:
    """Encode fields as a token; they must be values of JSON."""
    return base64.urlsafe_b64encode(json.dumps(fields).encode()).decode()


def decode_token(token: str, name: str) -> list[Any]:
    """Decode the fields of a token.

    Args:
        name: the name of the request's field, for the message.

    Raises:
        InvalidPageTokenError: the token is malformed.
    """
    try:
        fields = json.loads(base64.urlsafe_b64decode(token.encode()))
    except (binascii.Error, ValueError, RecursionError) as error:
        raise InvalidPageTokenError(f"{name} was not issued by this server") from error
    if not isinstance(fields, list):
        raise InvalidPageTokenError(f"{name} was not issued by this server")
    return fields


def decode_place(page_token: str, listing: str) -> int:
    """Return the number after which a listing continues, from a token of [listing, number].

    Raises:
        InvalidPageTokenError: the token is malformed, or of another listing.
    """
    fields = decode_token(page_token, "page_token")
    if len(fields) != 2 or fields[0] != listing or not isinstance(fields[1], int) or abs(fields[1]) >= 2**63:
        raise InvalidPageTokenError("page_token was not issued by this server, or belongs to another listing")
    return fields[1]

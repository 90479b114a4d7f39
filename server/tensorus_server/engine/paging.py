"""Pages of listings: the tokens that say where the next page begins, and answers that are cut by bytes as well as by count.

A token carries a place and whatever must be the same in the next request. It is a position, not a permission.
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

__all__ = ["Answer", "answers", "checked_page_size", "decode_token", "encode_token", "take_all"]

_ENTRY_OVERHEAD_BYTES = 6
"""Tag and length of an entry in a repeated field: at most so many bytes for entries below 32 GiB."""


class Sized(Protocol):
    """A protobuf message, as far as its size matters."""

    def ByteSize(self) -> int:  # noqa: N802 - protobuf's name
        """Return its serialized size in bytes."""


T = TypeVar("T")
M = TypeVar("M", bound=Sized)


class Answer(Generic[T, M]):
    """The entries of one answer: as many as fit into `ANSWER_BYTES_MAX`, and always the first."""

    def __init__(self, convert: Callable[[T], M]) -> None:
        """Start empty; `convert` makes the message of an entry."""
        self.entries: list[M] = []
        self._convert = convert
        self._size = 0

    def take(self, value: T) -> bool:
        """Add the value and return True; False, and nothing changes, where it does not fit any more."""
        entry = self._convert(value)
        size = self._size + entry.ByteSize() + _ENTRY_OVERHEAD_BYTES
        if self.entries and size > ANSWER_BYTES_MAX:
            return False
        self.entries.append(entry)
        self._size = size
        return True


def answers(values: Iterable[T], convert: Callable[[T], M]) -> Iterator[list[M]]:
    """Yield the entries of all values in as many answers as they take: at least one, which may be empty."""
    answer = Answer(convert)
    for value in values:
        if not answer.take(value):
            yield answer.entries
            answer = Answer(convert)
            answer.take(value)
    yield answer.entries


def take_all(_: object) -> bool:
    """Take every entry of a page: the page is cut by count alone."""
    return True


def checked_page_size(page_size: int, entries: str, *, dataset: str | None = None) -> int:
    """Return how many entries a page has at most; 0 stands for the default.

    Args:
        entries: what they are, for the message; likewise `dataset`.

    Raises:
        LimitExceededError: above `PAGE_SIZE_MAX`.
    """
    if page_size > PAGE_SIZE_MAX:
        raise LimitExceededError(
            f"page_size is {page_size}, limit is {PAGE_SIZE_MAX} {entries} (page_size_max)",
            dataset=dataset,
            limit=PAGE_SIZE_MAX,
        )
    return page_size or PAGE_SIZE_DEFAULT


def encode_token(fields: list[Any]) -> str:
    """Return the fields, which JSON must be able to hold, as a token."""
    return base64.urlsafe_b64encode(json.dumps(fields).encode()).decode()


def decode_token(token: str, name: str) -> list[Any]:
    """Return the fields of a token.

    Args:
        name: of the request's field, for the message.

    Raises:
        InvalidPageTokenError: no token of ours has this form.
    """
    try:
        fields = json.loads(base64.urlsafe_b64decode(token.encode()))
    except (binascii.Error, ValueError, RecursionError) as error:
        raise InvalidPageTokenError(f"{name} is not one that this server gave") from error
    if not isinstance(fields, list):
        raise InvalidPageTokenError(f"{name} is not one that this server gave")
    return fields

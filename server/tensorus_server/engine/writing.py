"""Marks the engine's methods that write, which a store that is open for reading only refuses before they do anything."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Concatenate, ParamSpec, Protocol, TypeVar

from tensorus_server.errors import ReadOnlyError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tensorus_server.catalogue.abc import Catalogue

__all__ = ["writing"]


class _OnCatalogue(Protocol):
    _catalogue: Catalogue


_Self = TypeVar("_Self", bound=_OnCatalogue)
_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


def writing(
    method: Callable[Concatenate[_Self, _Parameters], _Result],
) -> Callable[Concatenate[_Self, _Parameters], _Result]:
    """Make a method raise `ReadOnlyError` if the catalogue is open for reading only.

    What a method without this mark writes is refused below, by the catalogue and the chunk store.
    """

    @wraps(method)
    def checked(self: _Self, /, *args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
        if self._catalogue.read_only:
            raise ReadOnlyError("the store is open for reading only")
        return method(self, *args, **kwargs)

    return checked

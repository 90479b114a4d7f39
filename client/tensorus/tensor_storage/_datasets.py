"""The attribute `datasets` of `TensorStorage`: a read-only mapping that reads from the store on access."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from tensorus.tensor_storage._errors import DatasetNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["DatasetView", "Datasets"]


class _Storage(Protocol):
    """The methods of `TensorStorage` that this module needs."""

    def dataset_exists(self, name: str) -> bool: ...

    def list_datasets(self) -> list[str]: ...

    def get_dataset(self, name: str) -> list[Any]: ...

    def iter_metadata(self, name: str) -> Iterator[dict[str, Any]]: ...

    def get_schema(self, name: str) -> dict[str, Any] | None: ...


class Datasets(Mapping[str, "DatasetView"]):
    """Datasets by name, in order of creation."""

    def __init__(self, storage: _Storage) -> None:
        """Show the current datasets of `storage`."""
        self._storage = storage

    def __getitem__(self, name: str) -> DatasetView:
        """Return a dataset; raise `KeyError` if it does not exist."""
        if name not in self:
            raise KeyError(name)
        return DatasetView(self._storage, name)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._storage.dataset_exists(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._storage.list_datasets())

    def __len__(self) -> int:
        return len(self._storage.list_datasets())


class DatasetView(Mapping[str, Any]):
    """The keys `tensors` and `metadata` (parallel lists) and `schema` (a dict or None), each read from the store on access."""

    def __init__(self, storage: _Storage, name: str) -> None:
        """Show the dataset `name`."""
        self._storage = storage
        self._name = name

    def __getitem__(self, key: str) -> Any:  # of the three
        """Return the current value of one of the three keys."""
        try:
            if key == "tensors":
                return self._storage.get_dataset(self._name)
            if key == "metadata":
                return list(self._storage.iter_metadata(self._name))
            if key == "schema":
                return self._storage.get_schema(self._name)
        except DatasetNotFoundError as error:
            raise KeyError(self._name) from error
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return iter(("tensors", "metadata", "schema"))

    def __len__(self) -> int:
        return 3

"""What the synchronous client does with datasets and with the store as a whole, and its life.

`_history_client.py` has the snapshots, `client.py` the tensors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from tensorus._arguments import at_of, dataset_name, dataset_taken, policy_of, retention_of, verified_part
from tensorus._arrays.assemble import Assembler
from tensorus._damage import intact
from tensorus._verifying import Verifying
from tensorus.errors import AlreadyExistsError, UnavailableError

if TYPE_CHECKING:
    import builtins
    from collections.abc import Iterable
    from datetime import timedelta

    from tensorus._access_client import Access
    from tensorus._backend import Backend
    from tensorus._damage import OnDamaged
    from tensorus._verifying import OnDamage, OnVerifyProgress
    from tensorus.access import ServerStatus
    from tensorus.types import At, DatasetInfo, DatasetStats, Policy, Schema, StoreStats, VerifyReport

__all__ = ["StoreClient"]


class StoreClient:
    """The part of `Client` that reads and writes no tensors."""

    def __init__(self, backend: Backend) -> None:
        """Use `backend`; `close` closes it."""
        self._opened = backend
        self._closed = False
        self._assembler = Assembler()

    def __reduce__(self) -> tuple[type[Self], tuple[Backend]]:
        """Pickle the backend. A store opened in this process raises `TypeError`."""
        return type(self), (self._backend,)

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the client."""
        self.close()

    def close(self) -> None:
        """Close the connection or store, and end the client's threads. Idempotent."""
        self._closed = True
        self._assembler.close()
        self._opened.close()

    def create_dataset(
        self,
        name: str,
        *,
        preset: str | None = None,
        policy: Policy | None = None,
        schema: Schema | None = None,
        retention: timedelta | None = None,
        exist_ok: bool = False,
    ) -> DatasetInfo:
        """Create a dataset.

        Args:
            name: 1 to 255 bytes; slashes are allowed.
            preset: the name of a storage policy; short for `policy=Policy(preset=...)`.
            policy: the storage policy in detail. Without `preset` and `policy`, tensors are stored losslessly.
            schema: the dtype, shape and metadata that every tensor must have.
            retention: how long tensors stay readable after they were replaced, changed or deleted, in whole seconds. None: not
                at all, but for what snapshots need.
            exist_ok: if the dataset exists, return it unchanged.

        Raises:
            AlreadyExistsError: the dataset exists and `exist_ok` is False.
            InvalidPolicyError: the preset is unknown, or the policy is invalid.
        """
        try:
            return self._backend.create_dataset(
                dataset_name(name), policy_of(preset, policy), schema, retention_of(retention), repeatable=exist_ok
            )
        except AlreadyExistsError as error:
            if not exist_ok:
                raise dataset_taken(error) from None
            return self._backend.get_dataset(dataset_name(name))

    def datasets(self, *, on_damaged: OnDamaged = None) -> builtins.list[DatasetInfo]:
        """Return all datasets, in order of creation.

        Args:
            on_damaged: called with the error of each damaged dataset; the others are still returned. None: the first error is
                raised.

        Raises:
            DataCorruptError: a dataset is damaged; the message names it.
        """
        return [*intact(self._backend.list_datasets(), on_damaged)]

    def dataset(self, name: str) -> DatasetInfo:
        """Return a dataset.

        Raises:
            DatasetNotFoundError: the dataset does not exist.
        """
        return self._backend.get_dataset(dataset_name(name))

    def update_dataset(
        self,
        name: str,
        *,
        preset: str | None = None,
        policy: Policy | None = None,
        schema: Schema | None = None,
        retention: timedelta | None = None,
    ) -> DatasetInfo:
        """Replace the policy, the schema or the retention; None leaves one as it is.

        Policy and schema apply to later inserts. Stored tensors do not change. A shorter retention also applies to what was
        replaced and deleted before, which is then deleted for good.

        Raises:
            DatasetNotFoundError: the dataset does not exist.
        """
        return self._backend.update_dataset(
            dataset_name(name), policy_of(preset, policy), schema, retention_of(retention)
        )

    def delete_dataset(self, name: str, *, drop_snapshots: bool = False) -> int:
        """Delete a dataset with all its tensors and past states, and return the number of tensors.

        Args:
            name: name of the dataset.
            drop_snapshots: also delete it if it has snapshots.

        Raises:
            DatasetNotFoundError: the dataset does not exist.
            HasSnapshotsError: the dataset has snapshots, and `drop_snapshots` is False.
        """
        return self._backend.delete_dataset(dataset_name(name), drop_snapshots=drop_snapshots)

    def stats(self, dataset: str, *, at: At | None = None) -> DatasetStats:
        """Return totals over a dataset's tensors: counts, sizes and the largest errors.

        Args:
            dataset: name of the dataset.
            at: as for `get`.

        Raises:
            DatasetNotFoundError: the dataset does not exist.
            SnapshotNotFoundError, StateNotKeptError: there is no such snapshot, or the state is not kept.
        """
        return self._backend.dataset_stats(dataset_name(dataset), at_of(at))

    @property
    def access(self) -> Access:
        """Tokens, rights and quotas, for administrators."""
        from tensorus._access_client import Access  # noqa: PLC0415 - few programs need it

        return Access(self._backend)

    def server_status(self) -> ServerStatus:
        """Return what serves the store: version, start, health, and the principal and the rights that this client has there."""
        return self._backend.server_status()

    def store_stats(self) -> StoreStats:
        """Return the sizes of the whole store: its tensors, what waits to be deleted, and the disk."""
        return self._backend.store_stats()

    def verify(
        self,
        dataset: str | None = None,
        ids: str | Iterable[str] | None = None,
        *,
        max_bytes_per_second: int | None = None,
        on_damage: OnDamage = None,
        on_progress: OnVerifyProgress = None,
    ) -> VerifyReport:
        """Read what is stored again, where it is stored, verify every checksum, and return a report of all damage.

        Nothing is changed, and damage raises no error. Tensors that are inserted meanwhile are left out; deletions and
        replacements are no damage. An interrupted verification resumes by itself.

        Args:
            dataset: name of the dataset. None: the whole store.
            ids: ids of tensors of the dataset, at most 10,000. None: all of them.
            max_bytes_per_second: largest number of stored bytes to read per second. None: no limit.
            on_damage: called with each damage as it is found, on the caller's thread.
            on_progress: called about twice a second, on the caller's thread.

        Raises:
            DatasetNotFoundError, TensorNotFoundError: the dataset, or one of the tensors, does not exist.
        """
        found = Verifying(on_damage, on_progress)
        # Not kept in a variable: the traceback of what a callback raises would keep it, and the verification would not end.
        for finding in self._backend.verify(*verified_part(dataset, ids, max_bytes_per_second)):
            found.take(finding)
        return found.report

    @property
    def _backend(self) -> Backend:
        if self._closed:
            raise UnavailableError("the client is closed", reason="UNAVAILABLE")
        return self._opened

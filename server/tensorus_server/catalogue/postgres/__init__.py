"""The catalogue in PostgreSQL, for any number of processes on any number of machines."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from tensorus_server.catalogue.postgres.address import Address
from tensorus_server.catalogue.postgres.database import Database
from tensorus_server.catalogue.postgres.identity import raise_if_due
from tensorus_server.catalogue.postgres.notifications import PostgresNotifications
from tensorus_server.catalogue.postgres.schema import open_schema
from tensorus_server.catalogue.sql.catalogue import SqlCatalogue
from tensorus_server.errors import EngineError

if TYPE_CHECKING:
    from tensorus_server.catalogue.identity_check import Payloads
    from tensorus_server.meters import Connections

__all__ = ["PostgresCatalogue"]

_MAINTAINED_EVERY_S = 3600.0
"""How often a process asks whether the epoch is due."""

_log = logging.getLogger(__name__)


class PostgresCatalogue(SqlCatalogue):
    """A catalogue in one schema of a PostgreSQL database."""

    def __init__(
        self,
        dsn: str,
        *,
        payloads: Payloads | None = None,
        accept_loss: bool = False,
        delete_grace_s: float = 3600.0,
        upload_expiry_s: float = 3600.0,
    ) -> None:
        """Open the catalogue, or create it, and migrate its schema. Several processes may do so at once.

        Args:
            dsn: a URL, such as postgresql://user@host/database?schema=tensorus; see `address.py`.
            payloads: the chunk store, which must belong to the same store; None: that is not checked.
            accept_loss: see `EngineConfig`.
            delete_grace_s: how long a deleted tensor's payload stays: at least as long as the longest Get.
            upload_expiry_s: how long after its last mark an upload can be resumed.

        Raises:
            StoreUnavailableError: the server cannot be reached or refuses the connection, a newer version wrote the catalogue,
                or it does not match the payloads. The message begins with "PostgreSQL at HOST:PORT/DATABASE".
            StoreBusyError: another process has been opening it for too long.
        """
        address = Address.parse(dsn)
        open_schema(address, payloads, accept_loss=accept_loss)
        self._payloads = payloads
        self._maintain_next_s = time.monotonic() + _MAINTAINED_EVERY_S
        self._database = Database(address)
        self._notifications = PostgresNotifications(address)
        super().__init__(
            self._database,
            delete_grace_s=delete_grace_s,
            upload_expiry_s=upload_expiry_s,
            notifications=self._notifications,
            trusts_indexes=True,
        )

    @staticmethod
    def check_address(dsn: str) -> None:
        """Check the form of an address, without connecting to it.

        Raises:
            StoreUnavailableError: it is malformed; the message does not repeat it.
        """
        Address.parse(dsn)

    def check_present(self) -> None:
        """See `Catalogue`."""
        self._database.check_writable()
        self._database.check_present()

    def connections(self) -> Connections:
        """See `Catalogue`."""
        return self._database.connections()

    def maintain(self, *, idle: bool) -> None:
        """Raise the store's epoch once a day, if idle."""
        if not idle or time.monotonic() < self._maintain_next_s:
            return
        self._maintain_next_s = time.monotonic() + _MAINTAINED_EVERY_S
        try:
            with self._database.write() as connection:
                raised = raise_if_due(connection)
            if raised is not None and self._payloads is not None:
                self._payloads.write_identity(raised)
        except EngineError as error:
            # Only an older backup would go unnoticed, until the next time.
            _log.warning("the store's epoch was not raised: %s", error)

    def close(self, timeout_s: float = 30.0) -> None:
        """See `Catalogue`."""
        self._notifications.close(timeout_s)
        self._database.close(timeout_s)

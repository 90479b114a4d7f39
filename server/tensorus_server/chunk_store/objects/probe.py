"""What is tried when a store of objects is opened: whether it keeps the promises that everything here relies on.

    the bucket exists, and the credentials permit what is needed
    an object that was stored can be read at once, as a whole and in ranges, and has its bytes
    a listing shows it at once
    objects that were deleted are gone

A store that breaks one of these is refused, with the part and the promise. Whether it refuses to store an object twice is only
reported: nothing relies on that. The probe takes about 12 requests, and on a store that does not answer less than a minute.
"""

from __future__ import annotations

import logging
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from tensorus_server.chunk_store.abc import PayloadMissingError
from tensorus_server.chunk_store.objects.client import ObjectClient, RequestLimits
from tensorus_server.errors import EngineError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tensorus_server.chunk_store.objects.address import StoreAddress

__all__ = ["PROBE_LIMITS", "ProbeReport", "probe_store"]

PROBE_LIMITS = RequestLimits(connect_s=5.0, attempt_s=10.0, attempts=4, total_s=10.0)
"""Of each request: a store that is not reachable is refused after at most 20 s."""

_BYTES = 4096
_FOLDER = "probe"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProbeReport:
    """What a store does beyond what is needed."""

    creates_once: bool
    """Whether a conditional PUT of an object that exists is refused."""
    presigns: bool
    """Whether requests can be signed, for direct reads."""


def probe_store(address: StoreAddress, limits: RequestLimits = PROBE_LIMITS) -> ProbeReport:
    """Try a store, and log one line about it. It leaves no objects, unless it fails.

    Args:
        address: of the store.
        limits: of each request.

    Raises:
        StoreUnavailableError: the store is not reachable, refuses the credentials, has no such bucket, or breaks a promise.
    """
    client = ObjectClient(address, limits)
    probe = _Probe(client)
    try:
        probe.reads()
        probe.lists()
        creates_once = probe.creates_once()
        presigns = client.sign([probe.names[0]], 60.0) is not None
        probe.deletes()
    except BaseException:
        with suppress(EngineError):
            client.delete(probe.names)
        raise
    finally:
        client.close()
    report = ProbeReport(creates_once, presigns)
    _log.info(
        "%s keeps its promises (%s, conditional PUT %s, presigned requests %s)",
        client.name,
        "TLS" if address.is_encrypted else "plain HTTP",
        "kept" if creates_once else "ignored",
        "yes" if presigns else "no",
    )
    return report


class _Probe:
    def __init__(self, client: ObjectClient) -> None:
        self._client = client
        folder = f"{_FOLDER}/{secrets.token_hex(8)}"
        self.names = [f"{folder}/{number}" for number in range(3)]
        self._data = [os.urandom(_BYTES) for _ in self.names]

    def reads(self) -> None:
        """Store objects and read them."""
        for name, data in zip(self.names, self._data, strict=True):
            self._client.put(name, data)
        self._require("returns what was stored", self._data[0], lambda: self._client.get_all(self.names[0]))
        for start, length in ((0, 1), (1000, 96), (_BYTES - 100, 100)):
            self._require(
                "returns the range of an object that was requested",
                self._data[1][start : start + length],
                partial(self._range, start, length),
            )

    def _range(self, start: int, length: int) -> bytes:
        return bytes(self._client.get(self.names[1], start, length))

    def lists(self) -> None:
        """List the objects."""
        folder = self.names[0].rpartition("/")[0]
        expected = [(name, _BYTES) for name in self.names]
        self._require(
            "lists what was just stored",
            expected,
            lambda: [(one.name, one.size) for one in self._client.objects(folder)],
        )

    def creates_once(self) -> bool:
        """Return whether the store refuses to store an object that exists, and keeps the old one."""
        return not self._client.create(self.names[0], self._data[0])

    def deletes(self) -> None:
        """Delete the objects, and look for one."""
        try:
            self._client.delete(self.names)
        except StoreUnavailableError as error:
            if "not understood" not in str(error) and "refuses the request" not in str(error):
                raise
            raise StoreUnavailableError(
                f"{self._client.name} cannot delete several objects at once; set AWS_DISABLE_BULK_DELETE=true in the "
                "environment, and they are deleted one by one"
            ) from error
        folder = self.names[0].rpartition("/")[0]
        self._require("does not list what was deleted", [], lambda: [one.name for one in self._client.objects(folder)])

    def _require(self, promise: str, expected: object, ask: Callable[[], object]) -> None:
        try:
            found = ask()
        except PayloadMissingError:
            found = None
        if found != expected:
            raise StoreUnavailableError(
                f"{self._client.name} breaks a promise that is needed, that it {promise}; use another service or version"
            )

"""Requests to a store of objects: retried within bounds, with errors that say which store failed and what to do.

Each request has limits of its own (`RequestLimits`); the library's retries are off, since they last for up to three minutes. A
request that failed is repeated whole. That is safe, because no object is ever stored again with other bytes.

The library's errors quote the service's answer, which may hold parts of the credentials. So messages here are made from the
kind of the error, its HTTP status and its code alone, and the original is not chained.
"""

from __future__ import annotations

import os
import random
import re
import threading
import time
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from tensorus_server.chunk_store.abc import PayloadMissingError
from tensorus_server.errors import StorageFullError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from typing_extensions import Buffer

    from tensorus_server.chunk_store.objects.address import StoreAddress

__all__ = ["PUT_S_MAX", "ObjectClient", "RequestLimits", "StoredObject"]

T = TypeVar("T")

_RETRY_AFTER_S = 5.0
"""When a client should try again after the service failed."""

_STATUS = re.compile(r"status code: (\d{3})|status: (\d{3})")
_CODE = re.compile(r"<Code>([A-Za-z]{1,60})</Code>")
_TOKEN = re.compile(r"/latest/(api/token|meta-data)|token request|TokenRequest|computeMetadata")
_FULL = {"QuotaExceeded", "XMinioStorageFull", "InsufficientStorage", "ServiceQuotaExceeded"}

_LIST_AT_ONCE = 1000
_DELETE_AT_ONCE = 1000
"""What one request of S3 lists or deletes."""


@dataclass(frozen=True)
class RequestLimits:
    """How long requests may take."""

    connect_s: float = 5.0
    """To connect."""
    attempt_s: float = 30.0
    """For one attempt with its answer: 16 MiB at 0.6 MB/s."""
    attempts: int = 12
    """Attempts of one request. `total_s` usually ends them before."""
    total_s: float = 30.0
    """After this long, no further attempt begins. So a request ends after `total_s` + `attempt_s` at most."""
    backoff_s: float = 0.1
    """Before the second attempt; doubled for each further one, up to 5 s, and varied by half."""


PUT_S_MAX = RequestLimits().total_s + RequestLimits().attempt_s
"""How long an object may still be on its way after its writer was declared dead, with the default limits."""


@dataclass(frozen=True)
class StoredObject:
    """An object in a listing."""

    name: str
    """Below the store's prefix."""
    size: int
    """In bytes."""
    modified_s: float
    """Seconds since 1970, by the store's clock."""


class _FailureError(Exception):
    """What a request failed with, free of secrets."""

    def __init__(self, message: str, *, again: bool = False, full: bool = False) -> None:
        super().__init__(message)
        self.again = again
        self.full = full


class ObjectClient:
    """Requests to one bucket, below one prefix. Thread-safe. Names of objects are relative to the prefix."""

    def __init__(self, address: StoreAddress, limits: RequestLimits | None = None) -> None:
        """Do not connect yet.

        Args:
            address: of the store.
            limits: of each request; None: the default.
        """
        self.address = address
        self.name = f"the object store {address}"
        """For messages."""
        self.before_put: Callable[[], None] = lambda: None
        """Called before each attempt to store an object; what it raises ends the request."""
        self.requests: Counter[str] = Counter()
        """How many attempts were made, by kind: "put", "get", "list", "delete", "head", "sign"."""
        self.retries: Counter[str] = Counter()
        """How many of them repeated one that had failed."""
        self.failures: Counter[str] = Counter()
        """How many requests failed after their last attempt."""
        self._limits = limits or RequestLimits()
        self._prefix = f"{address.prefix}/" if address.prefix else ""
        self._lock = threading.Lock()
        self._closed = False
        self._drains = False
        # `Any`: the library is optional, and imported when the first request is made.
        self._store: Any = None
        self._process = os.getpid()

    def put(self, name: str, data: Buffer, *, is_wanted: Callable[[], bool] = lambda: True) -> None:
        """Store an object, durably. It is whole or not there.

        Args:
            is_wanted: returns whether an attempt that failed may be followed by another one.

        Raises:
            StorageFullError: the service says that it is full.
            StoreUnavailableError: it fails, or refuses.
        """
        self._request(
            "put",
            lambda library, store: library.put(store, self._path(name), data, use_multipart=False),
            is_wanted=is_wanted,
        )

    def create(self, name: str, data: Buffer) -> bool:
        """Store an object if there is none of this name; return False if there is one. Many services do not check that.

        An attempt that failed may have stored it, so False does not mean that somebody else did. Errors as of `put`.
        """

        def create(library: Any, store: Any) -> bool:
            try:
                library.put(store, self._path(name), data, use_multipart=False, mode="create")
            except (library.exceptions.AlreadyExistsError, library.exceptions.PreconditionError):
                return False
            return True

        return self._request("put", create)

    def get(self, name: str, offset: int, length: int) -> memoryview:
        """Return up to `length` bytes from `offset` of an object: fewer, only if it ends before.

        Raises:
            PayloadMissingError: there is no such object, or it ends at `offset` or before.
            StoreUnavailableError: the service fails, or refuses.
        """
        if length == 0:
            return memoryview(b"")

        def get(library: Any, store: Any) -> memoryview:
            found = library.get_range(store, self._path(name), start=offset, length=length)
            if len(found) > length:
                raise _FailureError(f"answers a request for {length} bytes with {len(found)}")
            return memoryview(found)

        return self._request("get", get)

    def get_all(self, name: str) -> bytes:
        """Return an object. Only for small ones. Errors as of `get`."""
        return self._request("get", lambda library, store: bytes(library.get(store, self._path(name)).bytes()))

    def size(self, name: str) -> int:
        """Return the size of an object in bytes. Errors as of `get`."""
        return self._request("head", lambda library, store: int(library.head(store, self._path(name))["size"]))

    def objects(self, folder: str, *, once: bool = False) -> Iterator[StoredObject]:
        """Yield the objects whose names begin with `folder` and a slash, in the order of their names.

        Args:
            folder: without the slash.
            once: whether to make one attempt only.

        Raises:
            StoreUnavailableError: the service fails, or refuses.
        """
        last: str | None = None
        # `Any`: an iterator of the library.
        pages: Any = None

        def next_page(library: Any, store: Any) -> list[StoredObject]:
            nonlocal pages
            if pages is None:
                pages = iter(library.list(store, self._path(folder), offset=last, chunk_size=_LIST_AT_ONCE))
            try:
                return [self._entry(entry) for entry in next(pages, ())]
            except Exception:
                # The next attempt goes on after the last page.
                pages = None
                raise

        while page := self._request("list", next_page, once=once):
            yield from page
            last = self._path(page[-1].name)

    def delete(self, names: Sequence[str], *, once: bool = False) -> None:
        """Delete objects; those that do not exist are ignored. A bucket that does not exist is an error.

        Args:
            names: of the objects.
            once: whether to make one attempt only.

        Raises:
            StoreUnavailableError: the service fails, or refuses; some may be deleted.
        """

        def delete(library: Any, store: Any, *, paths: list[str]) -> None:
            try:
                library.delete(store, paths)
            except FileNotFoundError as error:
                if _is_bucket_missing(str(error)):
                    raise
                # Some services, and the store in memory, stop at an object that is missing.
                if len(paths) > 1:
                    for path in paths:
                        delete(library, store, paths=[path])

        for start in range(0, len(names), _DELETE_AT_ONCE):
            paths = [self._path(name) for name in names[start : start + _DELETE_AT_ONCE]]
            self._request("delete", partial(delete, paths=paths), once=once)

    def sign(self, names: Sequence[str], expires_s: float) -> list[str] | None:
        """Return a URL for each object with which anybody can GET it; None: this store cannot sign.

        Raises:
            StoreUnavailableError: the credentials cannot be had.
        """
        if self.address.scheme == "memory":
            return None
        paths = [self._path(name) for name in names]

        def sign(library: Any, store: Any) -> list[str] | None:
            try:
                return list(library.sign(store, "GET", paths, timedelta(seconds=expires_s)))
            except (library.exceptions.NotSupportedError, NotImplementedError):
                return None

        return self._request("sign", sign)

    def drain(self) -> None:
        """From now on, make one attempt of each request only, so that all of them end soon. Idempotent."""
        self._drains = True

    def close(self) -> None:
        """Refuse further requests; running ones end by themselves. Idempotent."""
        self._drains = True
        self._closed = True

    def _path(self, name: str) -> str:
        return self._prefix + name

    # `Any`: the library's entry, a dict.
    def _entry(self, entry: Any) -> StoredObject:
        return StoredObject(entry["path"][len(self._prefix) :], entry["size"], entry["last_modified"].timestamp())

    def _request(
        self,
        kind: str,
        attempt: Callable[[Any, Any], T],
        *,
        once: bool = False,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> T:
        limits = self._limits
        give_up_s = time.monotonic() + limits.total_s
        pause_s = limits.backoff_s
        made = 0
        while True:
            library, store = self._opened()
            if kind == "put":
                self.before_put()
            with self._lock:
                self.requests[kind] += 1
                self.retries[kind] += made > 0
            made += 1
            try:
                return attempt(library, store)
            except _FailureError as error:
                failure = error
            except Exception as error:  # noqa: BLE001 - the library raises errors of many classes, ValueError too
                failure = self._failure(library, error)
            is_over = once or self._drains or made >= limits.attempts or time.monotonic() + pause_s > give_up_s
            if is_over or not failure.again:
                break
            time.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads attempts, hides nothing
            pause_s = min(2 * pause_s, 5.0)
            if not is_wanted():
                break
        with self._lock:
            self.failures[kind] += 1
        if failure.full:
            raise StorageFullError(f"{self.name} {failure}") from None
        tries = f" ({made} attempts)" if made > 1 else ""
        if not failure.again:
            raise StoreUnavailableError(f"{self.name} {failure}") from None
        raise StoreUnavailableError(f"{self.name} {failure}{tries}", retry_after_s=_RETRY_AFTER_S) from None

    def _opened(self) -> tuple[Any, Any]:
        """Return the library and its store; the first call makes it."""
        if self._closed:
            raise StoreUnavailableError(f"{self.name} is closed")
        if os.getpid() != self._process:
            raise StoreUnavailableError(
                f"{self.name} was opened before this process was forked, and cannot be used in it; open it after the fork"
            )
        try:
            import obstore  # noqa: PLC0415 - only those who use object stores have it
        except ModuleNotFoundError as error:
            raise StoreUnavailableError(
                f"{self.name} needs the package obstore: pip install 'tensorus[object-store]'"
            ) from error
        with self._lock:
            if self._store is None:
                self._store = self._made()
        return obstore, self._store

    def _made(self) -> Any:
        from obstore import store as stores  # noqa: PLC0415 - see `_opened`

        address, limits = self.address, self._limits
        options: dict[str, Any] = {
            "client_options": {
                "allow_http": not address.is_encrypted,
                "connect_timeout": timedelta(seconds=limits.connect_s),
                "timeout": timedelta(seconds=limits.attempt_s),
            },
            "retry_config": {"max_retries": 0, "retry_timeout": timedelta(seconds=limits.attempt_s)},
        }
        endpoint = address.endpoint
        try:
            if address.scheme == "memory":
                return stores.MemoryStore()
            if address.scheme == "gs":
                if endpoint is not None:
                    options["base_url"] = endpoint
                return stores.GCSStore(address.bucket, **options)
            if endpoint is not None:
                options["endpoint"] = endpoint
            if address.scheme == "az":
                if "account" in address.parameters:
                    options["account_name"] = address.parameters["account"]
                return stores.AzureStore(address.bucket, **options)
            return stores.S3Store(address.bucket, **options, **_s3_options(address))
        except Exception as error:  # noqa: BLE001 - see `_request`
            failure = self._failure(None, error)
            raise StoreUnavailableError(f"{self.name} cannot be set up: {failure}") from None

    def _failure(self, library: Any, error: Exception) -> _FailureError:
        """Return what an error of the library means.

        Raises:
            PayloadMissingError: the object does not exist, or is shorter.
        """
        text = str(error)
        match = _STATUS.search(text)
        status = int(match[1] or match[2]) if match else 0
        found = _CODE.search(text)
        code = found[1] if found else ""
        said = f"HTTP {status}" + (f", {code}" if code else "")
        if _is_bucket_missing(text):
            return _FailureError(f"has no bucket {self.address.bucket}; create it, or correct the address")
        if _TOKEN.search(text):
            # The credentials of a machine in a cloud, which are asked for if there are no others.
            return _FailureError("has no credentials: the environment has none, and this host gives none", again=True)
        if status == 416:
            raise PayloadMissingError(f"{self.name} has an object that ends before the requested range") from None
        if isinstance(error, FileNotFoundError):
            raise PayloadMissingError(f"{self.name} has no such object") from None
        if status in {401, 403} or type(error).__name__ in {"PermissionDeniedError", "UnauthenticatedError"}:
            return _FailureError(
                f"refuses the credentials ({said}); check those in the environment, what they permit, the name of the bucket, "
                "and this host's clock"
            )
        if status == 507 or code in _FULL:
            return _FailureError(f"is full ({said})", full=True)
        if status in {408, 429} or status >= 500:
            return _FailureError(f"answers with an error ({said})", again=True)
        if status:
            return _FailureError(f"refuses the request ({said})")
        if library is not None and isinstance(error, library.exceptions.GenericError):
            return _transport_failure(text)
        return _FailureError(f"cannot be used: {type(error).__name__}; check its address and the environment")


def _is_bucket_missing(text: str) -> bool:
    """Return whether an error says so. The library raises the same class as for a missing object."""
    return "NoSuchBucket" in text or "ContainerNotFound" in text


def _transport_failure(text: str) -> _FailureError:
    """Return what an error without an answer of the service means."""
    if "Timeout" in text or "TimedOut" in text or "timed out" in text:
        return _FailureError("does not answer in time", again=True)
    if "non-partial" in text:
        return _FailureError("ignores which range of an object is requested; use another service or version")
    if "ConnectionRefused" in text:
        return _FailureError(
            "is not reachable: the connection was refused; check its address, and that it runs", again=True
        )
    if "dns error" in text:
        return _FailureError("is not reachable: its host name is unknown; check its address", again=True)
    if "certificate" in text:
        return _FailureError("is not reachable: its certificate is not trusted")
    if "error sending request" in text or "kind: Connect" in text or "HTTP error" in text:
        return _FailureError("is not reachable: the connection failed", again=True)
    return _FailureError("gives an answer that is not understood", again=True)


def _s3_options(address: StoreAddress) -> dict[str, Any]:
    options: dict[str, Any] = {}
    region = address.parameters.get("region")
    if region is None and not (os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")):
        region = "us-east-1"
    if region is not None:
        options["region"] = region
    if "virtual_hosted_style" in address.parameters:
        options["virtual_hosted_style_request"] = address.parameters["virtual_hosted_style"].lower() in {
            "1",
            "true",
            "yes",
        }
    if address.is_encrypted and "AWS_UNSIGNED_PAYLOAD" not in os.environ:
        # TLS already protects the bytes, and hashing them takes most of a PUT's time.
        options["unsigned_payload"] = True
    return options

"""The address of a store of objects, as a user writes it.

    s3://bucket/prefix?endpoint=http://127.0.0.1:8333&region=us-east-1
    gs://bucket/prefix
    az://container/prefix?account=name          also https://name.blob.core.windows.net/container/prefix
    memory://name                               objects in this process's memory, for tests

Parameters: `endpoint`, the service's own address; `region` and `virtual_hosted_style` for S3; `account` for Azure. Without
them, the variables of the environment count that each vendor's own tools read, such as AWS_ENDPOINT_URL. Credentials come
from the environment alone, never from the address, which is printed and logged.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from tensorus_server.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["StoreAddress"]

_PARAMETERS = {
    "s3": frozenset({"endpoint", "region", "virtual_hosted_style"}),
    "gs": frozenset({"endpoint"}),
    "az": frozenset({"endpoint", "account"}),
    "memory": frozenset[str](),
}
_ENDPOINTS = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "gs": ("GOOGLE_BASE_URL",),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
    "memory": (),
}
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_AZURE_HOST = re.compile(r"([a-z0-9]{3,24})\.blob\.core\.windows\.net")


@dataclass(frozen=True)
class StoreAddress:
    """A checked address."""

    scheme: str
    """"s3", "gs", "az" or "memory"."""
    bucket: str
    """For Azure, the container."""
    prefix: str
    """Without a slash at either end; empty: none."""
    parameters: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, url: str) -> StoreAddress:
        """Check an address.

        Raises:
            InvalidRequestError: it is not one of these forms, or holds credentials. The message does not repeat these.
        """
        parts = urlsplit(url)
        if "@" in parts.netloc:
            raise InvalidRequestError(
                "the address of the object store holds credentials; put them into the environment, such as AWS_ACCESS_KEY_ID"
            )
        scheme, bucket, path = parts.scheme, parts.netloc, parts.path.strip("/")
        parameters = dict(parse_qsl(parts.query, keep_blank_values=True))
        if scheme == "https" and (azure := _AZURE_HOST.fullmatch(parts.netloc)):
            scheme = "az"
            bucket, _, path = path.partition("/")
            parameters["account"] = azure[1]
        if scheme not in _PARAMETERS:
            raise InvalidRequestError(
                f"the address of the object store begins with {scheme}://, must begin with s3://, gs:// or az://"
            )
        if unknown := sorted(parameters.keys() - _PARAMETERS[scheme]):
            allowed = ", ".join(sorted(_PARAMETERS[scheme])) or "none"
            raise InvalidRequestError(
                f"the address of the object store has the parameter {unknown[0]!r}, allowed are: {allowed}. Credentials come "
                "from the environment"
            )
        if not _BUCKET.fullmatch(bucket):
            raise InvalidRequestError(
                f"the address of the object store names the bucket {bucket!r}, which is no valid name"
            )
        if any(part in {"", ".", ".."} for part in path.split("/")) and path:
            raise InvalidRequestError(
                f"the prefix of the object store is {path!r}, must not have empty parts or dots alone"
            )
        return cls(scheme, bucket, path, parameters)

    def __str__(self) -> str:
        """Return the address as messages print it: without parameters."""
        return f"{self.scheme}://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")

    @property
    def endpoint(self) -> str | None:
        """The service's own address, from the parameters or the environment; None: the vendor's."""
        if "endpoint" in self.parameters:
            return self.parameters["endpoint"]
        return next((os.environ[name] for name in _ENDPOINTS[self.scheme] if os.environ.get(name)), None)

    @property
    def is_encrypted(self) -> bool:
        """Whether requests go over TLS. Plain HTTP needs an endpoint that says so."""
        return not (self.endpoint or "").startswith("http://")

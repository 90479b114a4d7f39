"""Which rights each call needs. docs/guide/access.md has the same table; a test compares them, and both with the contract."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from tensorus_server.access.rights import EVERYTHING, Role

__all__ = ["NEEDS", "Needs"]

Needs: TypeAlias = Callable[[Any], Sequence[tuple[Role, str]]]
"""Returns the rights that a request needs, the one on the dataset that it is about first. `Any`: a request of the method."""


def _nothing(_: Any) -> Sequence[tuple[Role, str]]:
    return ()


def _reader(request: Any) -> Sequence[tuple[Role, str]]:
    return ((Role.READER, request.dataset),)


def _writer(request: Any) -> Sequence[tuple[Role, str]]:
    return ((Role.WRITER, request.dataset),)


def _admin(request: Any) -> Sequence[tuple[Role, str]]:
    return ((Role.ADMIN, request.dataset),)


def _reader_of_name(request: Any) -> Sequence[tuple[Role, str]]:
    return ((Role.READER, request.name),)


def _writer_of_name(request: Any) -> Sequence[tuple[Role, str]]:
    return ((Role.WRITER, request.name),)


def _admin_of_name(request: Any) -> Sequence[tuple[Role, str]]:
    return ((Role.ADMIN, request.name),)


def _copy_tensors(request: Any) -> Sequence[tuple[Role, str]]:
    source = Role.WRITER if request.move else Role.READER
    # An empty target is the source's dataset.
    return ((Role.WRITER, request.dataset or request.source_dataset), (source, request.source_dataset))


def _copy_dataset(request: Any) -> Sequence[tuple[Role, str]]:
    return ((Role.WRITER, request.new_name), (Role.READER, request.name))


def _rename_dataset(request: Any) -> Sequence[tuple[Role, str]]:
    return ((Role.ADMIN, request.name), (Role.ADMIN, request.new_name))


def _verify(request: Any) -> Sequence[tuple[Role, str]]:
    return ((Role.READER, request.dataset or EVERYTHING),)


def _reader_of_all(_: Any) -> Sequence[tuple[Role, str]]:
    return ((Role.READER, EVERYTHING),)


def _admin_of_all(_: Any) -> Sequence[tuple[Role, str]]:
    return ((Role.ADMIN, EVERYTHING),)


def _admin_of_pattern(request: Any) -> Sequence[tuple[Role, str]]:
    return ((Role.ADMIN, request.grant.pattern),)


NEEDS: dict[str, Needs] = {
    "GetCapabilities": _nothing,
    "GetServerStatus": _nothing,
    "CreateDataset": _writer_of_name,
    "GetDataset": _reader_of_name,
    # Those that the caller may read.
    "ListDatasets": _nothing,
    "UpdateDataset": _admin_of_name,
    "DeleteDataset": _admin_of_name,
    "GetDatasetStats": _reader_of_name,
    "CopyDataset": _copy_dataset,
    "RenameDataset": _rename_dataset,
    "CreateSnapshot": _writer,
    "ListSnapshots": _reader,
    "DeleteSnapshot": _admin,
    "RestoreDataset": _admin,
    # Streams of requests: the method checks the first one.
    "Insert": _nothing,
    "ExplainPolicy": _nothing,
    "InsertKnown": _writer,
    # The caller's own inserts.
    "GetInsertStatus": _nothing,
    "CancelInsert": _nothing,
    "Get": _reader,
    "Query": _reader,
    "GetPlan": _reader,
    "ListTensors": _reader,
    "UpdateTensor": _writer,
    "DeleteTensors": _writer,
    "CopyTensors": _copy_tensors,
    "Verify": _verify,
    "GetStoreStats": _reader_of_all,
    "CreateToken": _admin_of_all,
    "ListTokens": _admin_of_all,
    "RevokeToken": _admin_of_all,
    "AddGrant": _admin_of_pattern,
    "RemoveGrant": _admin_of_pattern,
    # Those that the caller has, or administers.
    "ListGrants": _nothing,
    "SetQuota": _admin_of_all,
    "ListQuotas": _admin_of_all,
    "SetOwner": _admin_of_all,
}
"""By method. A method that is not here is not served."""

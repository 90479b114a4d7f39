"""Checks names, specs, metadata and schemas, before anything of their size is allocated; and the bytes of a tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tensorus_codecs.checksum import TensorDigest
from tensorus_codecs.dtypes import Kind, dtype_by_name
from tensorus_codecs.errors import InvalidPolicyError
from tensorus_protos import rules
from tensorus_protos.rules import RuleError
from tensorus_server.errors import (
    ChecksumMismatchError,
    GenerationMismatchError,
    InvalidMetadataError,
    InvalidNameError,
    InvalidRequestError,
    InvalidShapeError,
    LimitExceededError,
    SchemaMismatchError,
    TensorNotFoundError,
)
from tensorus_server.limits import (
    DATASET_NAME_BYTES_MAX,
    EXPLAIN_CANDIDATES_MAX,
    KNOWN_PER_INSERT_MAX,
    METADATA_BYTES_MAX,
    RANK_MAX,
    REQUEST_ID_BYTES_MAX,
    RETENTION_S_MAX,
    TENSOR_BYTES_MAX,
)
from tensorus_server.model import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tensorus_codecs.dtypes import DType
    from tensorus_codecs.policy import StoragePolicy
    from tensorus_server.model import Checksum, Dataset, Metadata, NewTensor, Read, Schema, Tensor

__all__ = [
    "checked_spec",
    "generation_checked",
    "no_such_tensor",
    "require_announced",
    "require_candidate_count",
    "require_canonical",
    "require_dataset_name",
    "require_id",
    "require_known_count",
    "require_metadata",
    "require_policy_fit",
    "require_request_id",
    "require_retention",
    "require_schema",
    "require_schema_fit",
    "require_snapshot_name",
    "require_source_checksum",
]

_CRC32C = "crc32c"

_METADATA_TYPES = {
    "any": (object,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (float,),
    "text": (str,),
    "list": (list,),
    "map": (dict,),
}
"""Python's types for a schema's types. A bool does not count as an integer here, although it is one in Python."""


def require_dataset_name(name: str) -> None:
    """Refuse a name that is empty, too long, has control characters, or is unsafe as a relative path, such as "../a".

    Raises:
        InvalidNameError: names the value and the rule.
    """
    _require_text("name of a dataset", name, DATASET_NAME_BYTES_MAX)
    if any(part in {"", ".", ".."} for part in name.split("/")):
        raise InvalidNameError(f"name of a dataset is {name!r}: a part between slashes must not be empty, '.' or '..'")


def require_retention(retention_s: int, *, dataset: str) -> None:
    """Refuse a retention that is negative or above `RETENTION_S_MAX`.

    Raises:
        InvalidRequestError: it is negative.
        LimitExceededError: it is too long.
    """
    if retention_s < 0:
        raise InvalidRequestError(f"retention is {retention_s} s, must not be negative", dataset=dataset)
    if retention_s > RETENTION_S_MAX:
        raise LimitExceededError(
            f"retention is {retention_s} s, limit is {RETENTION_S_MAX} s (retention_s_max)",
            dataset=dataset,
            limit=RETENTION_S_MAX,
        )


def require_id(tensor_id: str, *, dataset: str) -> None:
    """Refuse an id that is empty, too long, or has control characters.

    Raises:
        InvalidNameError: names the value and the rule.
    """
    try:
        rules.require_id(tensor_id)
    except RuleError as error:
        raise _name_error(error, dataset) from error


def require_request_id(request_id: str, *, dataset: str) -> None:
    """Refuse a request id that is too long, or has control characters.

    Raises:
        InvalidNameError: names the value and the rule.
    """
    _require_text("request_id", request_id, REQUEST_ID_BYTES_MAX, dataset=dataset)


def require_snapshot_name(name: str, *, dataset: str) -> None:
    """Refuse a snapshot's name that is empty or too long, has characters that are not allowed, or reads as another state.

    Raises:
        InvalidNameError: names the value and the rule.
    """
    try:
        rules.require_snapshot_name(name)
    except RuleError as error:
        raise _name_error(error, dataset) from error


def require_candidate_count(count: int) -> None:
    """Refuse an ExplainPolicy with too many candidates.

    Raises:
        LimitExceededError: names the count and the limit.
    """
    if count > EXPLAIN_CANDIDATES_MAX:
        raise LimitExceededError(
            f"number of candidates is {count}, limit is {EXPLAIN_CANDIDATES_MAX} (explain_candidates_max)",
            limit=EXPLAIN_CANDIDATES_MAX,
        )


def require_known_count(count: int, *, dataset: str) -> None:
    """Refuse an InsertKnown with too many tensors.

    Raises:
        LimitExceededError: names the count and the limit.
    """
    if count > KNOWN_PER_INSERT_MAX:
        raise LimitExceededError(
            f"number of tensors is {count}, limit is {KNOWN_PER_INSERT_MAX} (known_per_insert_max)",
            dataset=dataset,
            limit=KNOWN_PER_INSERT_MAX,
        )


def require_canonical(spec: TensorSpec, canonical: memoryview, offset: int, *, dataset: str, tensor: str) -> None:
    """Refuse bytes that are invalid for the dtype: a bool other than 0 or 1 is undefined behaviour in many languages.

    Args:
        canonical: some of the tensor's bytes.
        offset: of the first of them within the tensor.

    Raises:
        InvalidRequestError: names the first such byte and its offset.
    """
    if spec.dtype.kind is not Kind.BOOL or not canonical.nbytes:
        return
    values = np.frombuffer(canonical, np.uint8)
    if values.max() <= 1:
        return
    first = int((values > 1).argmax())
    raise InvalidRequestError(
        f"byte {offset + first} of a {spec.dtype.name} tensor is {values[first]}, must be 0 or 1",
        dataset=dataset,
        tensor=tensor,
        offset=offset + first,
    )


def require_source_checksum(
    checksum: Checksum, new: NewTensor, *, digest: bytes | None, crc32c: int, dataset: str
) -> None:
    """Refuse a tensor that is not what its source checksum says.

    Args:
        digest: the `TensorDigest` of its canonical bytes; None: it is unknown, because the tensor was resumed.
        crc32c: the CRC32C of its canonical bytes.

    Raises:
        InvalidRequestError: the algorithm is unknown, or its checksum cannot be computed.
        ChecksumMismatchError: the checksums differ.
    """
    found: bytes | None
    if checksum.algorithm == TensorDigest.ALGORITHM:
        found = digest
    elif checksum.algorithm == _CRC32C:
        found = crc32c.to_bytes(4, "big")
    else:
        raise InvalidRequestError(
            f"algorithm of the source checksum is {checksum.algorithm!r}, must be {TensorDigest.ALGORITHM} or {_CRC32C}",
            dataset=dataset,
            tensor=new.id,
        )
    if found is None:
        raise InvalidRequestError(
            f"{checksum.algorithm} of an item that was resumed cannot be checked, because what is stored is not read again; "
            f"send its {_CRC32C}",
            dataset=dataset,
            tensor=new.id,
        )
    if found != checksum.value:
        raise ChecksumMismatchError(
            f"{checksum.algorithm} of the {new.spec.canonical_bytes} bytes is {found.hex()}, "
            f"the source checksum is {checksum.value.hex()}",
            dataset=dataset,
            tensor=new.id,
            expected=checksum.value.hex(),
            found=found.hex(),
        )


def checked_spec(
    dtype: DType, shape: tuple[int, ...], *, dataset: str | None = None, tensor: str | None = None
) -> TensorSpec:
    """Check a shape and return the spec.

    Args:
        dataset: the tensor's dataset, for the message.
        tensor: the tensor's id, for the message.

    Raises:
        InvalidShapeError: the shape has too many axes, a negative size, or too many bytes.
    """
    if len(shape) > RANK_MAX:
        raise InvalidShapeError(
            f"rank is {len(shape)}, limit is {RANK_MAX} axes (rank_max)", dataset=dataset, tensor=tensor, limit=RANK_MAX
        )
    for axis, size in enumerate(shape):
        if size < 0:
            raise InvalidShapeError(
                f"size of axis {axis} is {size}, must not be negative", dataset=dataset, tensor=tensor
            )
    spec = TensorSpec(dtype, shape)
    # The product cannot overflow in Python. The sizes are bounded, too, because an empty tensor may have one of any value.
    if spec.canonical_bytes > TENSOR_BYTES_MAX or any(size > TENSOR_BYTES_MAX for size in shape):
        raise InvalidShapeError(
            f"shape {list(shape)} of {dtype.name} needs {spec.canonical_bytes} bytes, "
            f"limit is {TENSOR_BYTES_MAX} bytes (tensor_bytes_max)",
            dataset=dataset,
            tensor=tensor,
            limit=TENSOR_BYTES_MAX,
        )
    return spec


def require_metadata(metadata: Metadata, *, dataset: str, tensor: str) -> None:
    """Refuse metadata that is too large or too deep, or holds a value that cannot be stored.

    Raises:
        InvalidMetadataError: a type or a value cannot be stored.
        LimitExceededError: the metadata is too large or too deep, or a key is too long.
    """
    if not metadata:
        return
    try:
        rules.require_metadata(metadata)
    except RuleError as error:
        raise _metadata_error(error, dataset, tensor) from error


def require_announced(new: NewTensor, dataset: Dataset) -> None:
    """Refuse a tensor whose id, metadata or spec the dataset does not allow.

    Raises:
        InvalidNameError, InvalidMetadataError, LimitExceededError: the id or the metadata is invalid.
        SchemaMismatchError: the tensor does not fit the dataset's schema.
    """
    require_id(new.id, dataset=dataset.name)
    if new.metadata:
        try:
            rules.require_metadata_values(new.metadata)
            rules.require_metadata_size(new.metadata_json, new.metadata)
        except RuleError as error:
            raise _metadata_error(error, dataset.name, new.id) from error
        # Computed here rather than on the committer's thread: for large metadata it takes 20 ms.
        _ = new.index
    if not dataset.schema.is_empty:
        require_schema_fit(new.id, new.spec, new.metadata, dataset.schema, dataset=dataset.name)


def require_schema(schema: Schema) -> None:
    """Refuse a schema that no tensor could fit.

    Raises:
        UnsupportedDTypeError: the dtype is unknown.
        InvalidShapeError: the shape has too many axes, or a size below -1.
        InvalidMetadataError: a metadata type is unknown.
        LimitExceededError: its keys are longer than the metadata of a tensor may be.
    """
    size = sum(len(key.encode()) for key in schema.metadata)
    if size > METADATA_BYTES_MAX:
        raise LimitExceededError(
            f"keys of the schema are {size} bytes, limit is {METADATA_BYTES_MAX} bytes (metadata_bytes_max)",
            limit=METADATA_BYTES_MAX,
        )
    if schema.dtype is not None:
        dtype_by_name(schema.dtype)
    if schema.shape is not None and (len(schema.shape) > RANK_MAX or any(size < -1 for size in schema.shape)):
        raise InvalidShapeError(
            f"shape of the schema is {list(schema.shape)}, must be at most {RANK_MAX} sizes, each -1 (any) or not negative"
        )
    for key, kind in schema.metadata.items():
        if kind not in _METADATA_TYPES:
            raise InvalidMetadataError(
                f"type of {key!r} in the schema is {kind!r}, must be one of {', '.join(_METADATA_TYPES)}"
            )


def require_policy_fit(policy: StoragePolicy, schema: Schema, *, dataset: str) -> None:
    """Refuse a policy whose quantizer does not apply to the dtype of the dataset's schema.

    Raises:
        InvalidPolicyError: names both.
    """
    quantizer = None if policy.encoding is None else policy.encoding.quantizer
    if quantizer is not None and schema.dtype is not None and not quantizer.applies_to(dtype_by_name(schema.dtype)):
        raise InvalidPolicyError(
            f"policy has the quantizer {quantizer.id}, which does not apply to {schema.dtype}, the dtype of the schema "
            f"[dataset={dataset}]"
        )


def require_schema_fit(tensor_id: str, spec: TensorSpec, metadata: Metadata, schema: Schema, *, dataset: str) -> None:
    """Refuse a tensor that does not fit its dataset's schema.

    Raises:
        SchemaMismatchError: names what the schema requires and what the tensor has.
    """
    if schema.is_empty:
        return
    for mismatch in _mismatches(spec, metadata, schema):
        raise SchemaMismatchError(mismatch, dataset=dataset, tensor=tensor_id)


def _mismatches(spec: TensorSpec, metadata: Metadata, schema: Schema) -> Iterator[str]:
    if schema.dtype not in {None, spec.dtype.name}:
        yield f"dtype is {spec.dtype.name}, the schema requires {schema.dtype}"
    if schema.shape is not None and not (
        len(spec.shape) == len(schema.shape)
        and all(required in {-1, size} for required, size in zip(schema.shape, spec.shape, strict=True))
    ):
        yield f"shape is {list(spec.shape)}, the schema requires {list(schema.shape)}"
    for key, kind in schema.metadata.items():
        if key not in metadata:
            yield f"metadata has no {key!r}, which the schema requires"
            return
        value = metadata[key]
        if not isinstance(value, _METADATA_TYPES[kind]) or (isinstance(value, bool) and kind not in {"boolean", "any"}):
            yield f"metadata {key!r} is a {type(value).__name__}, the schema requires {kind}"


def _require_text(what: str, text: str, bytes_max: int, *, dataset: str | None = None) -> None:
    try:
        rules.require_text(what, text, bytes_max)
    except RuleError as error:
        raise _name_error(error, dataset) from error


def _name_error(error: RuleError, dataset: str | None) -> InvalidNameError:
    if error.limit is None:
        return InvalidNameError(str(error), dataset=dataset)
    return InvalidNameError(str(error), dataset=dataset, limit=error.limit)


def _metadata_error(error: RuleError, dataset: str, tensor: str) -> InvalidMetadataError | LimitExceededError:
    if error.limit is None:
        return InvalidMetadataError(str(error), dataset=dataset, tensor=tensor)
    return LimitExceededError(str(error), dataset=dataset, tensor=tensor, limit=error.limit)


def no_such_tensor(dataset: str, tensor_id: str, at: int | None = None) -> TensorNotFoundError:
    """Return the error for a tensor that does not exist, or did not at a generation."""
    when = "" if at is None else f" at generation {at}"
    return TensorNotFoundError(f"there is no such tensor{when}", dataset=dataset, tensor=tensor_id)


def generation_checked(dataset: str, read: Read, tensor: Tensor | None, at: int | None = None) -> Tensor | Exception:
    """Return the tensor that was found for a read, or the error if there is none, or one of another generation.

    Args:
        at: the generation of the state that was read; None: the current one.
    """
    if tensor is None:
        return no_such_tensor(dataset, read.id, at)
    if read.generation is not None and tensor.generation != read.generation:
        return GenerationMismatchError(
            f"generation is {tensor.generation}, the request asks for {read.generation}",
            dataset=dataset,
            tensor=read.id,
            generation=tensor.generation,
        )
    return tensor

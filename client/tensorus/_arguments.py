"""Checks users' arguments and converts them for backends, and converts backends' results for users. Shared by both clients."""

from __future__ import annotations

import operator
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, get_args

from tensorus._arrays.canonical import as_numpy, canonical_blocks, default_kind, dtype_name, from_canonical
from tensorus._arrays.indexing import parse_index
from tensorus._arrays.sample import sample_of, start_of
from tensorus._backend import Copies, Listing, Part, Reference, State, Upload
from tensorus._where import filter_text
from tensorus.errors import (
    AlreadyExistsError,
    InsertManyError,
    InternalError,
    InvalidPolicyError,
    InvalidRequestError,
    TensorusError,
    error_for,
)
from tensorus.types import NewTensor, Policy, Precision, Progress, Record, TensorInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from tensorus._arrays.canonical import AnyArray
    from tensorus._backend import Sample
    from tensorus._where import Where
    from tensorus.types import AsArray, At, Base, Index, OnConflict

__all__ = [
    "DELETES_PER_CALL",
    "READS_PER_CALL",
    "at_of",
    "base_of",
    "batches",
    "copies_of",
    "dataset_name",
    "dataset_taken",
    "inserted_many",
    "inserted_one",
    "listing_of",
    "part_of",
    "policies_of",
    "policy_of",
    "precision_of",
    "progress_of",
    "record_of",
    "restored_state",
    "retention_of",
    "sample_from",
    "selection_of",
    "snapshot_name",
    "tensor_name",
    "upload_of",
    "uploads_of",
    "verified_part",
    "without_result",
]

READS_PER_CALL = 4000
"""A server takes 10,000. This many of the longest ids fill half of a message. Measured: small tensors arrive a fifth to a half
faster than with 1,000 ids, because nothing is in transit between two calls."""

DELETES_PER_CALL = 1000
"""A call is one transaction, which blocks other writers."""

_PRECISIONS = get_args(Precision)

_COUNT_MAX = 2**64 - 1
"""Maximum of a limit, sample, seed and generation in the contract."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def dataset_name(dataset: object) -> str:
    """Return a dataset's name; raise `TypeError` if it is not a str."""
    return _text("name of a dataset", dataset)


def tensor_name(tensor_id: object) -> str:
    """Return a tensor's id; raise `TypeError` if it is not a str."""
    return _text("id of a tensor", tensor_id)


def snapshot_name(name: object) -> str:
    """Return a snapshot's name; raise `TypeError` if it is not a str."""
    return _text("name of a snapshot", name)


def at_of(at: At | None) -> State | None:
    """Return the state that a user means; None: the current one.

    Raises:
        TypeError: it is neither a snapshot's name, nor a generation, nor a time.
        InvalidRequestError: the generation is out of range, or the time has no place in UTC.
    """
    if at is None:
        return None
    if isinstance(at, str):
        return State(snapshot=snapshot_name(at))
    if isinstance(at, datetime):
        return State(time_us=_time_us(at))
    # A bool is an int in Python, but nobody means a generation by it.
    if isinstance(at, bool) or not hasattr(at, "__index__"):
        raise TypeError(f"at is a {type(at).__name__}, must be a str (snapshot), an int (generation) or a datetime")
    generation = operator.index(at)
    if not 0 <= generation <= _COUNT_MAX:
        raise InvalidRequestError(
            f"at is {generation}, a generation must be from 0 to {_COUNT_MAX}", reason="INVALID_REQUEST"
        )
    return State(generation=generation)


def copies_of(
    dataset: object,
    ids: Mapping[str, str | None],
    to: str | None,
    *,
    at: At | None = None,
    replace: bool = False,
    move: bool = False,
) -> Copies:
    """Return what to copy or to move.

    Raises:
        TypeError: the ids are no mapping, or a name is not a str; see also `at_of`.
    """
    if not isinstance(ids, Mapping):
        raise TypeError(f"ids is a {type(ids).__name__}, must be a mapping from ids to new ids")
    names = [(tensor_name(one), one if new is None else tensor_name(new)) for one, new in ids.items()]
    return Copies(
        dataset_name(dataset), names, "" if to is None else dataset_name(to), at_of(at), replace=replace, move=move
    )


def base_of(base: Base | None) -> Reference | None:
    """Return the tensor that a user means as a base; None: none.

    Raises:
        TypeError: it is nothing that names a tensor.
        InvalidRequestError: as of `at_of`.
    """
    if base is None:
        return None
    if isinstance(base, str):
        return Reference("", tensor_name(base))
    if isinstance(base, TensorInfo):
        return Reference(base.dataset, base.id, State(generation=base.generation))
    parts: object = base
    if not isinstance(parts, tuple) or len(parts) not in {2, 3}:
        raise TypeError(
            f"base is a {type(base).__name__}, must be an id, a tuple of dataset and id, and perhaps a state, or a TensorInfo"
        )
    dataset, tensor_id, *at = parts
    return Reference(dataset_name(dataset), tensor_name(tensor_id), at_of(at[0]) if at else None)


def restored_state(at: At) -> State:
    """Return the state to restore. Raises as `at_of`; `TypeError` for None."""
    state = at_of(at)
    if state is None:
        raise TypeError("at is None, must name the state to restore")
    return state


def _time_us(time: datetime) -> int:
    """Return a time in microseconds since 1970; one without a time zone is local time."""
    try:
        return (time.astimezone(UTC) - _EPOCH) // timedelta(microseconds=1)
    except (OverflowError, ValueError, OSError) as error:
        raise InvalidRequestError(
            f"at is {time}, which is no time in UTC: {error}", reason="INVALID_REQUEST"
        ) from error


def retention_of(retention: timedelta | None) -> timedelta | None:
    """Return a retention.

    Raises:
        TypeError: it is no timedelta.
    """
    if retention is not None and not isinstance(retention, timedelta):
        raise TypeError(f"retention is a {type(retention).__name__}, must be a datetime.timedelta")
    return retention


def _text(what: str, text: object, *, reason: str = "INVALID_NAME") -> str:
    """Return the text. Text that UTF-8 cannot encode is refused here, so that both backends raise the same error."""
    found = _str(what, text)
    try:
        found.encode()
    except UnicodeEncodeError as error:
        message = f"{what} is not Unicode text: {error.reason} at character {error.start}"
        raise error_for(reason, message, {}) from error
    return found


def _str(what: str, text: object) -> str:
    if not isinstance(text, str):
        raise TypeError(f"{what} is a {type(text).__name__}, must be a str")
    return text


def batches(ids: list[str], size: int) -> Iterator[list[str]]:
    """Yield the ids in batches. Without ids, yield one empty batch, so that a missing dataset is still an error."""
    for start in range(0, max(1, len(ids)), size):
        yield ids[start : start + size]


def listing_of(
    dataset: str,
    where: Where | None,
    *,
    order_by: str | None,
    limit: int | None,
    sample: int | None = None,
    seed: int | None = None,
    at: At | None = None,
) -> Listing:
    """Return a listing from the arguments of `query` and `list`.

    Raises:
        InvalidRequestError: a number is out of range.
        TypeError: see `at_of`.
    """
    for name, value in (("limit", limit), ("sample", sample), ("seed", seed)):
        if value is not None and not 0 <= value <= _COUNT_MAX:
            raise InvalidRequestError(f"{name} is {value}, must be from 0 to {_COUNT_MAX}", reason="INVALID_REQUEST")
    text = _text("filter", filter_text(where), reason="INVALID_FILTER")
    order = _text("order_by", order_by or "", reason="INVALID_REQUEST")
    return Listing(dataset_name(dataset), text, order, limit, sample, seed, at_of(at))


def _array_kind(as_: AsArray | None) -> AsArray:
    """Return the requested kind of array, or the default; raise `ValueError` for an unknown kind."""
    kind = as_ or default_kind()
    if kind not in {"torch", "numpy"}:
        raise ValueError(f"as_ is {as_!r}, must be 'torch' or 'numpy'")
    return kind


def record_of(as_: AsArray | None) -> Callable[[TensorInfo, AnyArray], Record]:
    """Return a function that makes a record of a tensor that was read. Raises as `_array_kind`."""
    kind = _array_kind(as_)
    return lambda info, array: Record(info, from_canonical(array, kind))


def selection_of(
    index: Index | None, dtype: str | None, as_: AsArray | None, precision: str | None = None
) -> tuple[Part | None, Callable[[TensorInfo, AnyArray], Any]]:  # `Any`: a torch tensor or a NumPy array, as asked for
    """Return the part to read, and a function that makes the array.

    Raises as `parse_index`, `_array_kind` and `precision_of`.
    """
    if index is None:
        kind = _array_kind(as_)
        part = part_of(precision) if dtype is None else Part(dtype=dtype, precision=precision_of(precision))
        return part, lambda _, array: from_canonical(array, kind)
    parsed, kind = parse_index(index), _array_kind(as_)
    part = Part(parsed.axes, parsed.trailing_axes, dtype, precision_of(precision))
    return part, lambda info, array: from_canonical(parsed.apply(array, info.shape), kind)


def part_of(precision: str | None) -> Part | None:
    """Return the part to read of whole tensors at this precision. Raises as `precision_of`."""
    return None if precision is None else Part(precision=precision_of(precision))


def precision_of(precision: str | None) -> str | None:
    """Return the precision of a read.

    Raises:
        InvalidRequestError: there is no such precision.
    """
    if precision is not None and precision not in _PRECISIONS:
        known = ", ".join(map(repr, _PRECISIONS))
        raise InvalidRequestError(f"precision is {precision!r}, must be {known} or None", reason="INVALID_REQUEST")
    return precision


def without_result(what: str, dataset: str, tensor_id: str) -> InternalError:
    """Return the error of a call that ended without its result."""
    return InternalError(f"the {what} ended without a result [dataset={dataset}, tensor={tensor_id}]")


def policy_of(preset: str | None, policy: Policy | None) -> Policy | None:
    """Return the policy that is given, in either form, or None.

    Raises:
        InvalidPolicyError: both are given.
    """
    if preset is not None and policy is not None:
        raise InvalidPolicyError(
            "preset and policy cannot be combined; set the preset of the policy instead", reason="INVALID_POLICY"
        )
    return policy if preset is None else Policy(preset=preset)


def policies_of(policies: Iterable[Policy | str] | None) -> list[Policy]:
    """Return the policies to explain, with names of presets converted; empty means all presets."""
    if isinstance(policies, (str, Policy)):
        raise TypeError(f"policies is {policies!r}, must be a list of policies, or names of presets")
    return [_policy(policy) for policy in policies or ()]


def _policy(policy: object) -> Policy:
    if isinstance(policy, str):
        return Policy(preset=policy)
    if not isinstance(policy, Policy):
        raise TypeError(f"a policy is a {type(policy).__name__}, must be a Policy, or the name of a preset")
    return policy


def sample_from(tensor: object, base: Base | None = None) -> Sample:
    """Return a sample of a tensor: all its values, or as many as a store explains; with a base, the first ones.

    Raises:
        ValueError: the base is an id alone, and no call says of which dataset.
    """
    array = as_numpy(tensor)
    reference = base_of(base)
    if reference is None:
        return sample_of([array])
    if not reference.dataset:
        raise ValueError(f"base is {base!r}, must be a tuple of dataset and id, or a TensorInfo")
    return start_of(array, reference)


_BYTES_PER_SECOND_MAX = 2**63 - 1
"""What the contract can carry; more makes no difference."""


def verified_part(
    dataset: str | None, ids: str | Iterable[str] | None, bytes_per_second: int | None
) -> tuple[str | None, list[str], int | None]:
    """Return the arguments of `Backend.verify`.

    Raises:
        ValueError: the dataset is empty, there are ids but no dataset, or an empty list of ids, or no bytes are allowed.
    """
    if bytes_per_second is not None:
        bytes_per_second = min(operator.index(bytes_per_second), _BYTES_PER_SECOND_MAX)
        if bytes_per_second < 1:
            raise ValueError(f"max_bytes_per_second is {bytes_per_second}, must be at least 1")
    name = None if dataset is None else dataset_name(dataset)
    if name is not None and not name:
        raise ValueError("dataset is empty; None stands for the whole store")
    if ids is None:
        return name, [], bytes_per_second
    wanted = [tensor_name(tensor_id) for tensor_id in ([ids] if isinstance(ids, str) else ids)]
    if name is None:
        raise ValueError("ids are of a dataset, and dataset is None")
    if not wanted:
        raise ValueError("ids is empty; without ids, every tensor of the dataset is verified")
    return name, wanted, bytes_per_second


def dataset_taken(error: AlreadyExistsError) -> AlreadyExistsError:
    """Return the error of a dataset that already exists, with advice added."""
    return AlreadyExistsError(f"{error}; exist_ok=True accepts it unchanged", reason=error.reason, facts=error.facts)


def upload_of(new: NewTensor, on_conflict: OnConflict = "error") -> Upload:
    """Return a tensor as a backend takes it.

    Args:
        new: the tensor and its arguments.
        on_conflict: applies if `new` sets none.
    """
    array = as_numpy(new.tensor)
    return Upload(
        # The client chooses the id, so that a retried insert is recognized.
        id=uuid.uuid4().hex if new.id is None else _str("id of a tensor", new.id),
        dtype=dtype_name(array),
        shape=array.shape,
        canonical_bytes=array.nbytes,
        blocks=lambda block_bytes: canonical_blocks(array, block_bytes),
        metadata=new.metadata or {},
        policy=new.policy,
        if_generation_match=new.if_generation_match,
        replace=_replaces(new.on_conflict or on_conflict),
        base=base_of(new.base),
    )


def uploads_of(tensors: Iterable[object], on_conflict: OnConflict, ids: list[str]) -> Iterator[Upload]:
    """Yield what `insert_many` takes as it goes to a backend, and add the id of each to `ids`."""
    for tensor in tensors:
        upload = upload_of(_new_tensor(tensor), on_conflict)
        ids.append(upload.id)
        yield upload


def _new_tensor(tensor: object) -> NewTensor:
    if isinstance(tensor, NewTensor):
        return tensor
    if isinstance(tensor, tuple):
        if len(tensor) != 2 or not isinstance(tensor[0], str):
            raise TypeError("a tuple of insert_many must be (id, tensor)")
        return NewTensor(tensor[1], tensor[0])
    return NewTensor(tensor)


def _replaces(on_conflict: str) -> bool:
    if on_conflict not in {"error", "replace"}:
        raise ValueError(f"on_conflict is {on_conflict!r}, must be 'error' or 'replace'")
    return on_conflict == "replace"


def progress_of(upload: Upload, on_progress: Callable[[Progress], None]) -> Callable[[Progress], None]:
    """Return a callback that reports the total progress of an insert as that of its only tensor."""

    def report(progress: Progress) -> None:
        done_bytes = min(progress.done_bytes, upload.canonical_bytes)
        on_progress(Progress(upload.id, done_bytes, upload.canonical_bytes, progress.interruptions))

    return report


def inserted_one(
    dataset: str,
    upload: Upload,
    outcomes: Mapping[int, TensorInfo | TensorusError],
    on_progress: Callable[[Progress], None] | None,
) -> TensorInfo:
    """Return the result of an insert of one tensor and report full progress, or raise its error."""
    outcome = outcomes.get(0) or without_result("insert", dataset, upload.id)
    if isinstance(outcome, TensorusError):
        raise outcome
    if on_progress is not None:
        on_progress(Progress(upload.id, upload.canonical_bytes, upload.canonical_bytes))
    return outcome


def inserted_many(
    dataset: str, ids: Sequence[str], outcomes: Mapping[int, TensorInfo | TensorusError]
) -> list[TensorInfo]:
    """Return descriptions of the stored tensors, in the order of the ids.

    Raises:
        InsertManyError: some tensors were not stored.
    """
    inserted: list[TensorInfo] = []
    failed: list[tuple[int, TensorusError]] = []
    for position, tensor_id in enumerate(ids):
        # A tensor without an outcome counts as not stored.
        outcome = outcomes.get(position) or without_result("insert", dataset, tensor_id)
        if isinstance(outcome, TensorusError):
            failed.append((position, outcome))
        else:
            inserted.append(outcome)
    if failed:
        raise InsertManyError(inserted, failed)
    return inserted

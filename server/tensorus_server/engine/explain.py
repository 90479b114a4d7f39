"""Measures what policies would do to a sample of values: encodes, decodes and times it, and stores nothing.

    Explainer(spec, candidates)  →  write(bytes) ...  →  explanations(), one for each candidate, and one for a base

Each candidate encodes the sample chunk by chunk as an insert would, so that its report, including the chunk index, is the one
that the insert would give. A sample may consist of several tensors, which are encoded separately, because headers and index
entries are a large part of small tensors. Every record is decoded again and compared with what the encoder measured.

The speeds are those of one core without disk and network: the codecs on the calling thread, including the choice of encodings
and the checksums. If the sample takes too little time to measure, evenly spread chunks are repeated. The fastest pass counts,
because other load on the machine can only make a pass slower.

With a base, the last explanation is that of the preset `lossless` with this base. A reader of differences also reads the base,
which its speed does not include.

Memory: the sample, the records and the bases of the repeated chunks, and the current chunk.
"""

from __future__ import annotations

import math
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple, ParamSpec, TypeVar

from tensorus_codecs.checksum import crc32c
from tensorus_codecs.measure import MeasuredError
from tensorus_codecs.pipeline import decode_chunk, encode_chunk
from tensorus_codecs.plan import plan
from tensorus_codecs.policy import StoragePolicy
from tensorus_codecs.presets import DEFAULT_PRESET, PRESETS
from tensorus_codecs.select import CHOOSE_EVERY_CHUNKS, narrowed
from tensorus_protos.digest import DIGEST_BYTES
from tensorus_server.base_section import BaseSection
from tensorus_server.chunk_details import ChunkDetails
from tensorus_server.engine.insert.delta_base import DeltaBase, plan_with_base, referenced
from tensorus_server.engine.insert.totals import Totals, overhead_of
from tensorus_server.errors import InvalidBaseError, InvalidRequestError, LimitExceededError, SizeMismatchError
from tensorus_server.limits import EXPLAIN_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tensorus_codecs.base import Base
    from tensorus_codecs.pipeline import EncodedChunk
    from tensorus_codecs.plan import ChunkPlan
    from tensorus_server.base_section import BasePlace
    from tensorus_server.engine.engine import Engine
    from tensorus_server.model import StorageReport, Tensor, TensorReference, TensorSpec

__all__ = ["Explainer", "Explanation", "explainer"]

_NO_DIGEST = bytes(DIGEST_BYTES)
"""Nothing is stored, so that no digest is needed; its size is."""

P = ParamSpec("P")
T = TypeVar("T")

_REPEATED_BYTES = 8 * 1024 * 1024
"""Canonical bytes of the repeated chunks: more than a CPU's caches hold, and still a fraction of a second of work."""

_PASSES = 3
_ENOUGH_S = 0.5
"""Passes end after this number, or once they have taken this long in total: a long pass is precise enough."""

_TIMED_S = 0.005
"""Passes take at least this long in total: those of a small sample take microseconds, and the first ones are slow."""


@dataclass(frozen=True)
class Explanation:
    """What one policy would do to the sample."""

    policy: StoragePolicy
    """The candidate."""
    storage: StorageReport
    """The report of an insert of the sample; the sum, if it consists of several tensors."""
    worst_relative_error: float
    """The largest relative error of any tensor of the sample."""
    encode_bytes_per_second: float
    """Canonical bytes encoded per second on one core; 0 if the sample is empty."""
    decode_bytes_per_second: float
    """Canonical bytes decoded per second on one core; 0 if the sample is empty."""


class Explainer:
    """See the module's description. Not thread-safe."""

    def __init__(
        self,
        spec: TensorSpec,
        candidates: Sequence[StoragePolicy],
        tensor_bytes: Sequence[int] = (),
        base: DeltaBase | None = None,
    ) -> None:
        """Start with no bytes.

        Args:
            candidates: the policies, in the order of the explanations; empty: every preset.
            tensor_bytes: canonical bytes of each tensor in the sample, in order; empty: the sample is one tensor.
            base: what the sample, which is one tensor, is compared with; the caller closes it. None: nothing.

        Raises:
            LimitExceededError: the sample is too large.
            SizeMismatchError: the tensors' sizes do not add up to the sample's.
        """
        if spec.canonical_bytes > EXPLAIN_BYTES_MAX:
            raise LimitExceededError(
                f"sample is {spec.canonical_bytes} bytes, limit is {EXPLAIN_BYTES_MAX} bytes (explain_bytes_max)",
                limit=EXPLAIN_BYTES_MAX,
            )
        if tensor_bytes:
            _require_tensors(spec, tensor_bytes)
        self._spec = spec
        self._tensor_bytes = tensor_bytes or [spec.canonical_bytes]
        self._candidates = list(candidates) or [StoragePolicy(preset=name) for name in PRESETS]
        self._base = base
        self._sample = bytearray(spec.canonical_bytes)
        self._received_bytes = 0

    def write(self, canonical: memoryview) -> None:
        """Add the next canonical bytes of the sample; they are copied.

        Raises:
            SizeMismatchError: there are more bytes than dtype and shape need.
        """
        end = self._received_bytes + canonical.nbytes
        if end > self._spec.canonical_bytes:
            raise self._size_mismatch(f"at least {end}")
        self._sample[self._received_bytes : end] = canonical
        self._received_bytes = end

    def explanations(self, between_chunks: Callable[[], None] = lambda: None) -> Iterator[Explanation]:
        """Yield the explanation of each candidate, and then that of the base, if there is one.

        Args:
            between_chunks: called before each chunk; an exception that it raises ends the work.

        Raises:
            SizeMismatchError: there are fewer bytes than dtype and shape need.
            TensorNotFoundError, StoreUnavailableError: the base was deleted, or cannot be read now.
        """
        if self._received_bytes != self._spec.canonical_bytes:
            raise self._size_mismatch(str(self._received_bytes))
        for policy in self._candidates:
            yield _Trial(policy, self._spec, self._tensors(), between_chunks).explanation()
        if self._base is not None:
            policy = StoragePolicy(preset=DEFAULT_PRESET)
            yield _Trial(policy, self._spec, self._tensors(), between_chunks, self._base).explanation()

    def _tensors(self) -> list[memoryview]:
        """Return the canonical bytes of each tensor."""
        ends = list(accumulate(self._tensor_bytes))
        sample = memoryview(self._sample)
        return [sample[end - size : end] for end, size in zip(ends, self._tensor_bytes, strict=True)]

    def _size_mismatch(self, sent: str) -> SizeMismatchError:
        spec = self._spec
        return SizeMismatchError(
            f"{sent} bytes were sent, {spec.dtype.name} of shape {list(spec.shape)} has {spec.canonical_bytes} bytes",
            limit=spec.canonical_bytes,
        )


@contextmanager
def explainer(
    engine: Engine,
    spec: TensorSpec,
    candidates: Sequence[StoragePolicy],
    tensor_bytes: Sequence[int],
    named: TensorReference | None,
) -> Iterator[Explainer]:
    """Lend an explainer whose base, if any, is a tensor of a store. Arguments and errors as of `Explainer`.

    Args:
        named: the base; None: none.

    Raises:
        InvalidRequestError: the base has no dataset, or the sample is not one tensor.
        NotFoundError, DataCorruptError, InvalidBaseError, StoreUnavailableError: there is no such base, it is damaged, does not
            fit the sample, or cannot be opened now.
    """
    if named is None:
        yield Explainer(spec, candidates, tensor_bytes)
        return
    if not named.dataset or len(tensor_bytes) > 1:
        raise InvalidRequestError(
            f"an explanation with a base needs the base's dataset, which is {named.dataset!r}, and a sample of one tensor, "
            f"which has {max(1, len(tensor_bytes))}"
        )
    base = referenced(engine.find, named)
    _require_base_of(spec, base)
    opened = DeltaBase(base, engine.reader)
    try:
        yield Explainer(spec, candidates, tensor_bytes, opened)
    finally:
        opened.close()


def _require_base_of(spec: TensorSpec, base: Tensor) -> None:
    is_start = len(spec.shape) == 1 and spec.canonical_bytes <= base.spec.canonical_bytes
    if spec.dtype != base.spec.dtype or not (is_start or spec.shape == base.spec.shape):
        raise InvalidBaseError(
            f"the base is {base.spec.dtype.name} of shape {list(base.spec.shape)}, the sample is {spec.dtype.name} of shape "
            f"{list(spec.shape)}, and must have the base's dtype, and its shape or one axis with no more values",
            base_dataset=base.dataset,
            base=base.id,
        )


def _require_tensors(spec: TensorSpec, tensor_bytes: Sequence[int]) -> None:
    total_bytes = sum(tensor_bytes)
    if total_bytes != spec.canonical_bytes:
        raise SizeMismatchError(
            f"tensors of the sample have {total_bytes} bytes, {spec.dtype.name} of shape {list(spec.shape)} has "
            f"{spec.canonical_bytes} bytes",
            limit=spec.canonical_bytes,
        )
    for size in tensor_bytes:
        if size <= 0 or size % spec.dtype.element_bytes:
            raise SizeMismatchError(
                f"a tensor of the sample has {size} bytes, must have whole elements of {spec.dtype.element_bytes} bytes, "
                "at least one",
                limit=spec.dtype.element_bytes,
            )


class _Chunk(NamedTuple):
    """A chunk of one of the tensors."""

    canonical: memoryview
    number: int
    """Number of the chunk within its tensor."""
    chunk_count: int
    """Number of chunks of its tensor."""

    @property
    def is_last(self) -> bool:
        return self.number == self.chunk_count - 1


def _chunks(tensor: memoryview, chunk_bytes: int) -> Iterator[_Chunk]:
    count = -(-tensor.nbytes // chunk_bytes)
    for number in range(count):
        yield _Chunk(tensor[number * chunk_bytes : (number + 1) * chunk_bytes], number, count)


class _Trial:
    """Measures one candidate on the tensors of the sample."""

    def __init__(
        self,
        policy: StoragePolicy,
        spec: TensorSpec,
        tensors: Sequence[memoryview],
        between_chunks: Callable[[], None],
        base: DeltaBase | None = None,
    ) -> None:
        self._policy = policy
        self._dtype = spec.dtype
        self._plan = plan(policy, spec.dtype)
        self._base = base
        if base is not None:
            self._plan, is_compared = plan_with_base(self._plan, base.tensor, policy.chunk_bytes)
            self._base = base if is_compared else None
        chunk_bytes = self._plan.chunk_bytes
        self._chunks = [chunk for tensor in tensors for chunk in _chunks(tensor, chunk_bytes)]
        self._sample_bytes = sum(tensor.nbytes for tensor in tensors)
        self._worst_relative_error = 0.0
        self._between_chunks = between_chunks
        self._narrowed: list[ChunkPlan] = []
        self._choosing_s = 0.0
        self._encoding, self._decoding = _Passes(), _Passes()

    def explanation(self) -> Explanation:
        storage = self._first_pass()
        if not self._chunks:
            return Explanation(self._policy, storage, 0.0, 0.0, 0.0)
        self._more_passes()
        choosing_s_per_byte = self._choosing_s / self._sample_bytes
        return Explanation(
            self._policy,
            storage,
            self._worst_relative_error,
            1 / (choosing_s_per_byte + self._encoding.fastest_s_per_byte),
            1 / self._decoding.fastest_s_per_byte,
        )

    def _first_pass(self) -> StorageReport:
        """Encode and decode all chunks."""
        totals = Totals(self._plan)
        encoding_s = decoding_s = 0.0
        error = MeasuredError()
        # Of the tensor that the chunk belongs to.
        details, record_bytes, bases = ChunkDetails(), 0, BaseSection()
        overhead_bytes = 0
        for number, chunk in enumerate(self._chunks):
            self._between_chunks()
            self._narrow(number)
            place, base = self._base_of(number)
            encoded, spent_s = _timed(self._encode, (number, base))
            encoding_s += spent_s
            if isinstance(place, str):
                encoded = replace(encoded, base_reason=place)
            elif place is not None and not encoded.base_reason:
                bases.add(chunk.number, place)
            decoded, spent_s = _timed(_verify_and_decode, (b"".join(encoded.record), base))
            decoding_s += spent_s
            if decoded != (chunk.canonical if encoded.decoded is None else memoryview(encoded.decoded).cast("B")):
                raise RuntimeError(f"chunk {number} of the sample does not decode to what was measured: {self._plan}")
            totals.add(chunk.canonical.nbytes, encoded, encoded.crc32c)
            details.append(encoded, _NO_DIGEST)
            record_bytes += encoded.stored_bytes
            if encoded.error is not None:
                error += encoded.error
            if chunk.is_last:
                self._worst_relative_error = max(self._worst_relative_error, error.relative_error)
                error = MeasuredError()
                overhead_bytes += overhead_of(details, record_bytes, bases)
                details, record_bytes, bases = ChunkDetails(), 0, BaseSection()
        self._encoding.add(self._sample_bytes, encoding_s)
        self._decoding.add(self._sample_bytes, decoding_s)
        return totals.report(overhead_bytes)

    def _more_passes(self) -> None:
        """Encode and decode some chunks again."""
        count = len(self._chunks)
        numbers = _evenly(count, max(1, _REPEATED_BYTES * count // self._sample_bytes))
        repeated_bytes = sum(self._chunks[number].canonical.nbytes for number in numbers)
        chunks = [(number, self._base_of(number)[1]) for number in numbers]
        while self._encoding.go_on:
            self._encoding.add(repeated_bytes, self._pass_s(self._encode, chunks))
        if self._decoding.go_on:
            records = [(b"".join(self._encode(chunk).record), chunk[1]) for chunk in chunks]
            while self._decoding.go_on:
                self._decoding.add(repeated_bytes, self._pass_s(_verify_and_decode, records))

    def _narrow(self, number: int) -> None:
        """Choose the encoding for this chunk and those that follow, as `TensorWriter` does."""
        chunk = self._chunks[number]
        chosen = self._narrowed[-1] if chunk.number else self._plan
        if chunk.number % CHOOSE_EVERY_CHUNKS == 0 and chunk.chunk_count > 1:
            chosen, spent_s = _timed(narrowed, self._plan, chunk.canonical, self._dtype)
            self._choosing_s += spent_s
        self._narrowed.append(chosen)

    def _base_of(self, number: int) -> tuple[BasePlace | str | None, Base | None]:
        """Return what `DeltaBase.of` returns; without a base, twice None."""
        if self._base is None:
            return None, None
        return self._base.of(number, self._chunks[number].canonical.nbytes)

    def _encode(self, chunk: tuple[int, Base | None]) -> EncodedChunk:
        number, base = chunk
        canonical, narrowed_plan = self._chunks[number].canonical, self._narrowed[number]
        if base is None:
            return encode_chunk(canonical, self._dtype, narrowed_plan)
        return encode_chunk(canonical, self._dtype, narrowed_plan, base=_unread(base))

    def _pass_s(self, work: Callable[[T], object], inputs: Sequence[T]) -> float:
        spent_s = 0.0
        for value in inputs:
            self._between_chunks()
            spent_s += _timed(work, value)[1]
        return spent_s


class _Passes:
    """Times passes over some bytes and keeps the fastest."""

    def __init__(self) -> None:
        self.fastest_s_per_byte = math.inf
        self._count = 0
        self._spent_s = 0.0

    @property
    def go_on(self) -> bool:
        """Whether another pass would make the result more precise."""
        return self._spent_s < _TIMED_S or (self._count < _PASSES and self._spent_s < _ENOUGH_S)

    def add(self, canonical_bytes: int, spent_s: float) -> None:
        if canonical_bytes:
            self.fastest_s_per_byte = min(self.fastest_s_per_byte, spent_s / canonical_bytes)
        self._count += 1
        self._spent_s += spent_s


def _verify_and_decode(stored: tuple[bytes, Base | None]) -> memoryview:
    record, base = stored
    # A read verifies the record's checksum before decoding, so the time includes it.
    crc32c(record)
    return decode_chunk(record) if base is None else decode_chunk(record, base=_unread(base))


def _unread(base: Base) -> Base:
    """Return the base without what was computed from it, so that every pass takes as long as the first one."""
    return replace(base)


def _evenly(total: int, count: int) -> list[int]:
    """Return `count` evenly spread numbers below `total`; all of them if `count` is larger."""
    count = min(count, total)
    return [number * total // count for number in range(count)]


def _timed(work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> tuple[T, float]:
    """Return the result of `work`, and the seconds it took."""
    began_s = time.perf_counter()
    returned = work(*args, **kwargs)
    return returned, time.perf_counter() - began_s

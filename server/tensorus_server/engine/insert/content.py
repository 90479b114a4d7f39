"""Equal bytes once: tensors with the same values, stored in the same way, share one payload.

Two tensors can share a payload if they have the same content digest: XXH3-128 of the JSON array

    [1, number of the dtype, bits of an element, [shape], policy, chunk_bytes, "XXH3-128 of the canonical bytes, in hex"]

of the bytes as sent, without spaces, in UTF-8. The first element is the version of this form. The policy is the tensor's own,
or that of its dataset, as JSON with sorted keys. Everything else that is known of both tensors must be the same, too: see
`StoredTensor.may_share`.
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from tensorus_codecs.checksum import TensorDigest
from tensorus_codecs.presets import DEFAULT_PRESET
from tensorus_server.chunk_store.abc import PayloadMissingError, PayloadUnreadableError
from tensorus_server.engine.read.payload import Payload
from tensorus_server.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tensorus_codecs.policy import StoragePolicy
    from tensorus_server.catalogue.abc import EqualTensor, StoredTensor, TensorTable
    from tensorus_server.chunk_store.abc import PayloadStore
    from tensorus_server.model import Checksum, TensorSpec

__all__ = ["EqualTensors", "content_digest"]

_log = logging.getLogger(__name__)


def content_digest(spec: TensorSpec, policy: StoragePolicy, chunk_bytes: int, source: Checksum) -> bytes | None:
    """Return the content digest of a tensor; None: the digest of the bytes as sent is unknown, so it can share no payload.

    Args:
        policy: the effective policy: the tensor's own, or its dataset's.
        chunk_bytes: of its plan.
        source: the source checksum.
    """
    if source.algorithm != TensorDigest.ALGORITHM:
        return None
    dtype, shape = spec.dtype, json.dumps(spec.shape, separators=(",", ":"))
    text = (
        f"[1,{dtype.number},{8 * dtype.element_bytes},{shape},{_policy_json(policy)},{chunk_bytes},"
        f'"{source.value.hex()}"]'
    )
    return TensorDigest.of(text.encode())


@lru_cache(maxsize=256)
def _policy_json(policy: StoragePolicy) -> str:
    # Without a preset and an encoding, the default preset applies.
    fields = policy.to_json()
    if "preset" not in fields and "encoding" not in fields:
        fields["preset"] = DEFAULT_PRESET
    return json.dumps(fields, sort_keys=True, separators=(",", ":"))


class EqualTensors:
    """Finds stored tensors with payloads that new ones can share. Thread-safe."""

    def __init__(self, tensors: TensorTable, payloads: PayloadStore, *, enabled: bool = True) -> None:
        """Find tensors of this catalogue.

        Args:
            enabled: whether payloads are shared at all.
        """
        self._tensors = tensors
        self._payloads = payloads
        self._enabled = enabled

    def offered(self, group: Sequence[StoredTensor]) -> list[StoredTensor]:
        """Return the tensors with the stored ones whose payloads they may share; called just before their commit."""
        if not self._enabled:
            return [stored if stored.content is None else replace(stored, content=None) for stored in group]
        found = self.find([stored.content for stored in group if stored.content is not None])
        if not found:
            return list(group)
        return [
            stored if stored.content is None else replace(stored, equals=tuple(found.get(stored.content, ())))
            for stored in group
        ]

    def find(self, digests: Sequence[bytes]) -> dict[bytes, list[EqualTensor]]:
        """Return stored tensors with these content digests, the latest first, whose chunk indexes are intact.

        Of each payload and its bases, only the index is read, which is at its end: a payload that is missing, cut or that of
        another tensor is not shared. A damaged chunk is not noticed; that would cost reading everything again.
        """
        if not digests or not self._enabled:
            return {}
        try:
            equals = self._tensors.equal_tensors(digests)
        except EngineError as error:
            # The tensors get payloads of their own.
            _log.warning("equal tensors could not be looked up: %s", error)
            return {}
        intact: dict[str, bool] = {}
        for equal in (equal for found in equals.values() for equal in found):
            key = equal.tensor.locator.key
            if key not in intact:
                intact[key] = self._is_intact(equal)
        kept = {
            digest: [equal for equal in found if intact[equal.tensor.locator.key]] for digest, found in equals.items()
        }
        return {digest: found for digest, found in kept.items() if found}

    def _is_intact(self, equal: EqualTensor) -> bool:
        needed = {equal.tensor.locator.key: equal.tensor.locator}
        waiting = list(needed.values())
        try:
            while waiting:
                locator = waiting.pop()
                with self._payloads.open(locator.key) as reader:
                    bases = Payload(equal.tensor, reader, locator=locator).read_bases()
                new = {base.key: base for base in bases.payloads if base.key not in needed} if bases else {}
                needed |= new
                waiting += new.values()
        except (EngineError, PayloadMissingError, PayloadUnreadableError) as error:
            _log.warning("the payload of tensor %s is damaged, and is not shared: %s", equal.tensor.id, error)
            return False
        return True

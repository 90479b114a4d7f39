"""Explaining a policy: the report is that of an insert, every record is decoded, speeds are measured, nothing is stored."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from contract.chunk_store_raw import RawFolder
from support.arrays import DTYPE_NAMES, canonical, normal, random_bits
from support.cases import each
from support.engine import insert, spec_of
from tensorus_codecs.dtypes import opaque_dtype
from tensorus_codecs.encoding import Encoding
from tensorus_codecs.errors import InvalidPolicyError
from tensorus_codecs.policy import StoragePolicy
from tensorus_codecs.presets import PRESETS
from tensorus_server.engine import explain
from tensorus_server.engine.engine import Engine
from tensorus_server.engine.explain import Explainer, Explanation
from tensorus_server.errors import LimitExceededError, SizeMismatchError
from tensorus_server.limits import EXPLAIN_BYTES_MAX, EXPLAIN_CANDIDATES_MAX
from tensorus_server.model import TensorSpec

pytestmark = pytest.mark.slow

CHUNK_BYTES = 4096

WEIGHTS = normal((300, 101), "float32")
"""30 chunks: what suits them is chosen twice."""


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every chunk done once: speeds need not be exact here."""
    monkeypatch.setattr(explain, "_TIMED_S", 0.0)
    monkeypatch.setattr(explain, "_PASSES", 1)


def explained(array: np.ndarray[Any, Any], *policies: StoragePolicy) -> list[Explanation]:
    """Explain policies for an array."""
    explainer = Explainer(spec_of(array), policies)
    explainer.write(memoryview(canonical(array)))
    return list(explainer.explanations())


SAMPLES: dict[str, Any] = {
    "many chunks": WEIGHTS,
    "one chunk": WEIGHTS[:3],
    "zeros": np.zeros(5000),
    "integers": np.arange(5000),
    "empty": np.empty((0, 3), np.float32),
    "a scalar": np.array(7, np.float32),
}


@each("preset", PRESETS)
@each("name", SAMPLES)
def test_a_report_is_that_of_an_insert(engine: Engine, preset: str, name: str) -> None:
    policy = StoragePolicy(preset=preset, chunk_bytes=CHUNK_BYTES)
    (found,) = explained(SAMPLES[name], policy)
    assert found.policy == policy
    assert found.storage == insert(engine, "d", f"{name}, {preset}", SAMPLES[name], policy=policy).storage


@each("preset", PRESETS)
def test_a_report_of_several_tensors_is_that_of_their_inserts(engine: Engine, preset: str) -> None:
    # Many chunks, one chunk and small ones. Each chooses on its own.
    whole_numbers = np.arange(5000, dtype=np.float32)
    arrays = [WEIGHTS.reshape(-1), whole_numbers[:1024], whole_numbers, *normal((10, 50), seed=3), np.float32([7])]
    policy = StoragePolicy(preset=preset, chunk_bytes=CHUNK_BYTES)
    explainer = Explainer(spec_of(np.concatenate(arrays)), [policy], [array.nbytes for array in arrays])
    explainer.write(memoryview(b"".join(map(canonical, arrays))))
    (found,) = explainer.explanations()
    reports = [
        insert(engine, "d", f"{preset} {number}", array, policy=policy).storage for number, array in enumerate(arrays)
    ]
    for field in ("canonical_bytes", "quantized_bytes", "stored_bytes"):
        assert getattr(found.storage, field) == sum(getattr(report, field) for report in reports)
    assert found.worst_relative_error == max(report.relative_error for report in reports)
    assert found.storage.max_absolute_error == max(report.max_absolute_error for report in reports)


def test_what_suits_one_tensor_of_a_sample_is_not_used_for_the_next(engine: Engine) -> None:
    # The first is of two chunks, for which a choice is made once; the second is of one, and suited by something else.
    arrays = [WEIGHTS.reshape(-1), np.arange(15_000, dtype=np.float32)]
    policy = StoragePolicy(preset="lossless", chunk_bytes=64 * 1024)
    explainer = Explainer(spec_of(np.concatenate(arrays)), [policy], [array.nbytes for array in arrays])
    explainer.write(memoryview(b"".join(map(canonical, arrays))))
    (found,) = explainer.explanations()
    reports = [insert(engine, "d", str(number), array, policy=policy).storage for number, array in enumerate(arrays)]
    assert reports[0].encodings[0].encoding != reports[1].encodings[0].encoding
    assert found.storage.encodings == reports[0].encodings + reports[1].encodings


@each(
    ("tensor_bytes", "message"),
    [
        ([4], r"^tensors of the sample have 4 bytes, float32 of shape \[300, 101\] has 121200 bytes$"),
        ([121_201, -1], r"^a tensor of the sample has 121201 bytes, must have whole elements of 4 bytes"),
        ([121_200, 0], "^a tensor of the sample has 0 bytes, must have whole elements of 4 bytes, at least one$"),
        ([121_198, 2], "^a tensor of the sample has 121198 bytes"),
    ],
    ids=["too few", "a negative size", "an empty tensor", "half an element"],
)
def test_tensors_that_are_not_the_sample_are_refused(tensor_bytes: list[int], message: str) -> None:
    with pytest.raises(SizeMismatchError, match=message):
        Explainer(spec_of(WEIGHTS), [], tensor_bytes)


@each("dtype", DTYPE_NAMES)
def test_a_report_of_every_dtype_is_that_of_an_insert(engine: Engine, dtype: str) -> None:
    array = random_bits(dtype, (70, 90))
    policies = [StoragePolicy(preset=preset, chunk_bytes=CHUNK_BYTES) for preset in ("none", "lossless", "maximum")]
    for number, found in enumerate(explained(array, *policies)):
        assert found.storage == insert(engine, "d", f"{dtype} {number}", array, policy=found.policy).storage


POLICIES = {
    "an encoding": StoragePolicy(
        encoding=Encoding.from_json([{"id": "fp16"}, {"id": "zstd"}]), chunk_bytes=CHUNK_BYTES
    ),
    "a quantizer that does not apply": StoragePolicy(encoding=Encoding.from_json([{"id": "fp16"}])),
    "an error contract": StoragePolicy(preset="int8_only", max_relative_error=1e-9, chunk_bytes=CHUNK_BYTES),
    "large chunks": StoragePolicy(preset="lossless", chunk_bytes=2 * 1024 * 1024),
}


@each("name", POLICIES)
@each("dtype", ["float32", "int16"])
def test_a_report_of_any_policy_is_that_of_an_insert(engine: Engine, name: str, dtype: str) -> None:
    array = normal((300, 101), scale=100).astype(dtype)
    (found,) = explained(array, POLICIES[name])
    assert found.storage == insert(engine, "d", f"{dtype}, {name}", array, policy=POLICIES[name]).storage


def test_chunks_hold_whole_elements_of_an_unknown_dtype() -> None:
    explainer = Explainer(TensorSpec(opaque_dtype(99, 24), (5000,)), [StoragePolicy(chunk_bytes=CHUNK_BYTES)])
    explainer.write(memoryview(bytes(15_000)))
    (found,) = explainer.explanations()
    assert [share.chunks for share in found.storage.encodings] == [4]
    assert found.storage.canonical_bytes == 15_000


def test_without_candidates_every_preset_is_explained_in_order() -> None:
    assert [found.policy for found in explained(WEIGHTS[:10])] == [StoragePolicy(preset=name) for name in PRESETS]
    assert len(PRESETS) <= EXPLAIN_CANDIDATES_MAX


def test_candidates_are_explained_in_their_order() -> None:
    candidates = [StoragePolicy(preset="maximum"), StoragePolicy(preset="none"), StoragePolicy(preset="maximum")]
    assert [found.policy for found in explained(WEIGHTS[:10], *candidates)] == candidates


def test_what_a_lossy_candidate_costs_is_measured() -> None:
    none, maximum = explained(WEIGHTS, StoragePolicy(preset="none"), StoragePolicy(preset="maximum"))
    assert (none.storage.relative_error, none.storage.lossy) == (0.0, False)
    assert 0 < maximum.storage.relative_error < 0.01
    assert maximum.storage.stored_bytes < none.storage.stored_bytes / 3


def test_nothing_is_stored(engine: Engine, raw: RawFolder) -> None:
    explained(WEIGHTS)
    assert (raw.published(), raw.unfinished(), raw.kept()) == ({}, 0, {})


# ---- Speed --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("array", [WEIGHTS, WEIGHTS[:1, :1]], ids=["large", "one element"])
def test_speeds_are_positive(array: np.ndarray[Any, Any]) -> None:
    for found in explained(array):
        assert found.encode_bytes_per_second > 0
        assert found.decode_bytes_per_second > 0


def test_speeds_of_nothing_are_zero() -> None:
    for found in explained(np.empty(0, np.float32)):
        assert (found.encode_bytes_per_second, found.decode_bytes_per_second) == (0.0, 0.0)


def test_the_fastest_pass_counts() -> None:
    passes = explain._Passes()
    for canonical_bytes, spent_s in ((100, 1.0), (10, 0.05), (10, 0.2)):
        passes.add(canonical_bytes, spent_s)
    assert passes.fastest_s_per_byte == pytest.approx(0.005)


@pytest.mark.parametrize(
    ("spent_s", "go_on"),
    [
        ([], True),
        ([0.1, 0.1], True),
        ([0.1, 0.1, 0.1], False),
        ([0.6], False),
        ([1e-6] * 100, True),
        ([1e-3] * 5, False),
    ],
    ids=["none", "two", "three", "a long one", "many short ones", "enough short ones"],
)
def test_passes_go_on_until_they_are_exact(
    monkeypatch: pytest.MonkeyPatch, spent_s: list[float], *, go_on: bool
) -> None:
    monkeypatch.setattr(explain, "_TIMED_S", 0.005)
    monkeypatch.setattr(explain, "_PASSES", 3)
    passes = explain._Passes()
    for spent in spent_s:
        passes.add(1, spent)
    assert passes.go_on is go_on


def test_of_a_large_sample_only_some_chunks_are_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explain, "_PASSES", 3)
    monkeypatch.setattr(explain, "_REPEATED_BYTES", 3 * CHUNK_BYTES)
    encoded: list[int] = []
    encode_chunk = explain.encode_chunk
    spied = lambda chunk, dtype, plan: (encoded.append(chunk.nbytes), encode_chunk(chunk, dtype, plan))[1]  # noqa: E731
    monkeypatch.setattr(explain, "encode_chunk", spied)
    explained(WEIGHTS, StoragePolicy(preset="fast", chunk_bytes=CHUNK_BYTES))
    # All of them once, three of them twice for the time of encoding, and once for their records.
    assert len(encoded) == 30 + 3 * 3


@each(("total", "count"), [(1, 1), (5, 8), (8, 8), (64, 8), (30, 7)])
def test_chunks_are_spread_evenly(total: int, count: int) -> None:
    numbers = explain._evenly(total, count)
    assert len(numbers) == min(total, count)
    assert numbers == sorted(set(numbers))
    steps = {after - before for before, after in pairwise([*numbers, total])}
    assert max(steps) - min(steps) <= 1


# ---- What is refused ----------------------------------------------------------------------------------------------------


def test_a_sample_that_is_too_large_is_refused_before_it_comes() -> None:
    spec = TensorSpec(spec_of(np.zeros(1, np.uint8)).dtype, (EXPLAIN_BYTES_MAX + 1,))
    with pytest.raises(
        LimitExceededError, match=r"sample is 67108865 bytes, limit is 67108864 bytes \(explain_bytes_max\)"
    ):
        Explainer(spec, [])


def test_more_bytes_than_announced_are_refused_as_they_come() -> None:
    explainer = Explainer(spec_of(WEIGHTS), [])
    explainer.write(memoryview(canonical(WEIGHTS)))
    with pytest.raises(
        SizeMismatchError, match=r"at least 121201 bytes were sent, float32 of shape \[300, 101\] has 121200"
    ):
        explainer.write(memoryview(b"x"))


def test_fewer_bytes_than_announced_are_refused_at_the_end() -> None:
    explainer = Explainer(spec_of(WEIGHTS), [])
    explainer.write(memoryview(canonical(WEIGHTS))[:100])
    with pytest.raises(SizeMismatchError, match=r"100 bytes were sent, float32 of shape \[300, 101\] has 121200 bytes"):
        next(explainer.explanations())


def test_a_candidate_that_cannot_be_followed_is_refused() -> None:
    with pytest.raises(InvalidPolicyError, match="preset 'zip' is not one of none"):
        explained(WEIGHTS, StoragePolicy(preset="zip"))


def test_what_is_raised_between_chunks_ends_the_work() -> None:
    explainer = Explainer(spec_of(WEIGHTS), [StoragePolicy(preset="none", chunk_bytes=CHUNK_BYTES)])
    explainer.write(memoryview(canonical(WEIGHTS)))
    asked = 0

    def between_chunks() -> None:
        nonlocal asked
        asked += 1
        if asked == 5:
            raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        list(explainer.explanations(between_chunks))
    assert asked == 5


def test_a_record_that_does_not_decode_to_what_was_measured_is_no_explanation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explain, "decode_chunk", memoryview)
    with pytest.raises(RuntimeError, match="chunk 0 of the sample does not decode to what was measured"):
        explained(WEIGHTS, StoragePolicy(preset="lossless"))

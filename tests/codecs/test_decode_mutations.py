"""Golden records changed at random: what the fuzzer (`tests/fuzz`) checks, from seeds and without a guide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from contract.codec_decoding import assert_refused_or_decoded, mutated, rebased, repaired
from support.cases import each
from tensorus_codecs.chunk_record import parse_record

RECORDS = sorted((Path(__file__).parents[1] / "golden" / "chunk_records").glob("*.bin"))
_MUTATIONS = 15
"""Per record: a second in all. `tests/fuzz` goes on for as long as one likes."""


@pytest.mark.slow
@each("path", RECORDS)
def test_a_changed_record_is_refused_or_decoded(path: Path) -> None:
    data = rebased(path.read_bytes())
    assert assert_refused_or_decoded(data)
    assert repaired(data) == data
    for seed in range(_MUTATIONS):
        random = np.random.default_rng([seed, RECORDS.index(path)])
        other = RECORDS[int(random.integers(0, len(RECORDS)))].read_bytes()
        changed = mutated(data, other, random)
        assert_refused_or_decoded(changed)
        assert_refused_or_decoded(rebased(repaired(changed)))


def test_whatever_is_repaired_has_a_header_without_damage() -> None:
    random = np.random.default_rng(0)
    for length in range(200):
        data = random.bytes(length)
        record = parse_record(repaired(data))
        assert record.canonical_bytes % record.dtype.element_bytes == 0
        assert repaired(repaired(data)) == repaired(data)


def test_some_changes_are_noticed_and_some_are_not() -> None:
    """Without both, the test above would say little."""
    random = np.random.default_rng(0)
    decoded = [
        assert_refused_or_decoded(mutated(path.read_bytes(), RECORDS[0].read_bytes(), random)) for path in RECORDS
    ]
    assert 0 < sum(decoded) < len(decoded)

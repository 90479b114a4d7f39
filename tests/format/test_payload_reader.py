"""The golden stores' payloads read with a reader that was written from docs/FORMAT.md alone."""

import json
import math
import shutil
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import apsw
import crc32c
import numpy as np
import pytest

from format.payload_reader import Place, Spec, read_chunks, read_footer, read_payload, value_checksum
from format.words import FormatError

STORES = Path(__file__).parents[1] / "golden" / "stores"
FORMATS = ["bases", "format1", "format2"]

KINDS_WITH_BASES = {
    (True, 0, False, "xxh3_128"): 2,
    (False, 0, True, "xxh3_128"): 4,
    (False, 1, True, "xxh3_128_chunks"): 2,
}
"""In the catalogue, other payloads, with chunk details, algorithm of the value checksum."""

pytestmark = pytest.mark.slow

ROWS = """
SELECT id, dtype, dtype_number, element_bytes, shape, chunk_bytes, value_algorithm, value_checksum, key, length, index_length,
  index_crc, payload.bytes, json(metadata), relative_error
FROM tensor LEFT JOIN payload USING (seq)
"""


class Row(NamedTuple):
    """What the catalogue has of a tensor."""

    id: str
    dtype: str
    dtype_number: int
    element_bytes: int
    shape: str
    chunk_bytes: int
    value_algorithm: str
    value_checksum: bytes
    key: str
    length: int
    index_length: int
    index_crc: int
    inline: bytes | None
    metadata: str
    relative_error: float

    @property
    def place(self):
        return Place(self.key, self.length, self.index_length, self.index_crc)

    @property
    def spec(self):
        return Spec(self.dtype_number, self.element_bytes, json.loads(self.shape), self.chunk_bytes)


class Store:
    """A golden store, without the product."""

    def __init__(self, name, scratch):
        self.folder = STORES / name / "store"
        self.expected = json.loads((STORES / name / "expected.json").read_text(encoding="utf-8"))
        catalogue = shutil.copy(self.folder / "catalogue.db", scratch / "catalogue.db")
        with closing(apsw.Connection(str(catalogue))) as connection:
            self.rows = [Row(*fields) for fields in connection.execute(ROWS)]
            self.references = set()
            self.bases = set()
            if connection.table_exists("main", "payload_base"):
                self.bases = set(connection.execute("SELECT base, key FROM payload_base"))
            if connection.table_exists("main", "reference"):
                self.references = set(
                    connection.execute("SELECT id, reference.key FROM reference JOIN tensor USING (seq)")
                )
        self.files = sorted(self.folder.glob("chunks/??/*"))

    def payload(self, place):
        """Read the payload in a file."""
        return read_payload((self.folder / "chunks" / place.key).read_bytes()[: place.length], place)

    def own_payload(self, row):
        """Read a tensor's own payload."""
        return self.payload(row.place) if row.inline is None else read_payload(row.inline, row.place)

    def chunks(self, payload, spec):
        """Return the chunks of a tensor."""
        return list(read_chunks(payload, spec.chunk_count, self.payload))


def read_file(path):
    """Return the fields of a file's footer, and the place and the bytes of its payload."""
    data = path.read_bytes()
    fields, offset = read_footer(data)
    place = Place(f"{path.parent.name}/{path.name}", offset, fields["index_length"], fields["index_crc32c"])
    return fields, place, data[:offset]


def payload_of(path):
    """Read the payload in a file, whose place its footer has."""
    _, place, data = read_file(path)
    return read_payload(data, place)


@pytest.fixture(scope="module", params=FORMATS)
def store(request, tmp_path_factory):
    return Store(request.param, tmp_path_factory.mktemp("catalogue"))


@pytest.fixture(scope="module")
def format2(tmp_path_factory):
    return Store("format2", tmp_path_factory.mktemp("catalogue"))


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    return Store("bases", tmp_path_factory.mktemp("catalogue"))


def test_every_tensor_has_its_values(store):
    assert {row.id for row in store.rows} == store.expected.keys()
    for row in store.rows:
        expected, spec = store.expected[row.id], row.spec
        assert (row.dtype, spec.shape) == (expected["dtype"], expected["shape"])
        assert (json.loads(row.metadata), row.relative_error) == (expected["metadata"], expected["relative_error"])
        canonical = [chunk.canonical for chunk in store.chunks(store.own_payload(row), spec)]
        assert sum(map(len, canonical)) == math.prod(spec.shape) * spec.element_bytes
        found = value_checksum(row.value_algorithm, spec, canonical)
        assert found == row.value_checksum
        assert found.hex() == expected["value_checksum"]


def test_every_file_has_the_tensor_of_its_footer(store):
    for path in store.files:
        fields, place, data = read_file(path)
        assert fields["payload_key"] == path.name
        spec = Spec(fields["dtype"], fields["element_bytes"], fields["shape"], fields["chunk_bytes"])
        chunks = store.chunks(read_payload(data, place), spec)
        algorithm, expected = fields["value_checksum"]
        assert value_checksum(algorithm, spec, [chunk.canonical for chunk in chunks]).hex() == expected
        # Files of format 2 have chunk details, whose digests `chunks` has compared.
        assert (place.index_length % 8 == 4) == all(chunk.detail is not None for chunk in chunks)


def test_the_golden_stores_have_every_kind_of_payload(store, format2):
    kinds = Counter(
        (row.inline is not None, len(payload.others or ()), payload.details is not None, row.value_algorithm)
        for row in store.rows
        for payload in [store.own_payload(row)]
    )
    if store.folder.parent.name == "bases":
        assert kinds == KINDS_WITH_BASES
        return
    if store.folder != format2.folder:
        assert kinds == {(True, 0, False, "xxh3_128"): 3, (False, 0, False, "xxh3_128"): 4}
        return
    assert kinds == {
        (True, 0, False, "xxh3_128"): 3,
        (True, 0, False, "xxh3_128_chunks"): 3,
        (False, 0, True, "xxh3_128"): 1,
        (True, 2, True, "xxh3_128_chunks"): 1,
    }
    tables = [payload_of(path).others for path in store.files]
    assert sorted(len(others or ()) for others in tables) == [0, 0, 1]


def test_references_are_the_payloads_of_chunk_tables(format2):
    found = {(row.id, place.key) for row in format2.rows for place in format2.own_payload(row).others or ()}
    assert found == format2.references
    assert found


def test_chunk_details_are_those_of_the_chunks(format2):
    rows = {row.id: row for row in format2.rows}
    flags = set()
    for tensor_id in ("exact", "int8"):
        row = rows[tensor_id]
        chunks = format2.chunks(format2.own_payload(row), row.spec)
        for chunk in chunks:
            detail, values = chunk.detail, np.frombuffer(chunk.canonical, "<f4").astype(np.float64)
            flags.add((chunk.is_quantized, detail.fallback is not None))
            assert (detail.error is not None) == chunk.is_quantized
            largest = 0.0
            if chunk.is_quantized:
                count, rms_error, rms_value, largest = detail.error
                assert count == values.size
                assert rms_error <= largest <= 0.01
                assert rms_value == pytest.approx(np.sqrt((values**2).mean()), rel=0.01)
                assert detail.encoding[0]["id"] == "int8_block"
            else:
                assert detail.quantized_bytes == len(chunk.canonical)
            count, minimum, maximum, total, squares, zeros, nans, infinities = detail.summary
            assert (count, nans, infinities) == (values.size, 0, 0)
            exact_zeros = (values == 0).sum()
            assert zeros == exact_zeros or (chunk.is_quantized and zeros < exact_zeros)
            assert minimum == pytest.approx(values.min(), abs=largest)
            assert maximum == pytest.approx(values.max(), abs=largest)
            assert total == pytest.approx(values.sum(), abs=1e-3 + values.size * largest)
            assert squares == pytest.approx((values**2).sum(), rel=0.02)
    # Lossless by the policy, lossy, and lossless because an edit changed a part of a lossy chunk.
    assert flags == {(False, False), (True, False), (False, True)}


def test_bases_are_the_rows_of_the_catalogue_and_chains_have_their_depth(bases):
    payloads = {read_file(path)[1].key: payload_of(path) for path in bases.files}
    found = {(place.key, key) for key, payload in payloads.items() for place in payload.base_places or ()}
    assert found == bases.bases
    for payload in payloads.values():
        depths = [payloads[place.key].depth + 1 for place in payload.base_places or ()]
        assert payload.depth == max(depths, default=0)
    assert {payload.depth for payload in payloads.values()} == {0, 1, 2, 3, 4}
    # No tensor is left that has the first ones.
    own = {row.key for row in bases.rows}
    assert sum(key not in own for key in payloads) >= 3
    assert any(payload.runs and payload.base_runs for payload in payloads.values())


def test_a_record_with_another_base_is_refused(bases):
    (row,) = [row for row in bases.rows if row.id == "exact"]
    payload = bases.own_payload(row)
    shifted = [run._replace(first=run.first + 1) if run.payload else run for run in payload.base_runs]
    with pytest.raises(FormatError, match="another base"):
        bases.chunks(payload._replace(base_runs=shifted), row.spec)
    with pytest.raises(FormatError, match="as deep as"):
        bases.chunks(payload._replace(depth=1), row.spec)
    with pytest.raises(FormatError, match="no base"):
        bases.chunks(payload._replace(base_runs=None), row.spec)


def test_damage_is_found_in_every_part_of_a_payload(format2):
    (path,) = [path for path in format2.files if payload_of(path).runs]
    payload, (_, place, data) = payload_of(path), read_file(path)
    index_begin = place.length - place.index_length
    records_end = sum(map(len, payload.records))
    positions = [0, records_end - 1, records_end, records_end + 40, index_begin - 1, index_begin, place.length - 1]
    for position in positions:
        damaged = bytearray(data)
        damaged[position] ^= 1
        with pytest.raises(FormatError, match="damaged"):
            read_payload(bytes(damaged), place)
    with pytest.raises(FormatError, match="record 0 is damaged"):
        read_payload(data, place._replace(key="00/" + "0" * 32))


def test_an_index_of_a_newer_version_is_refused(format2):
    _, place, data = read_file(format2.files[0])
    index = bytearray(data[place.length - place.index_length :])
    assert index[-8:] == bytes([2, 0, 0, 0, 0, 0, 0, 0])
    index[-8] = 4
    with pytest.raises(FormatError, match="another version"):
        read_payload(data[: -len(index)] + index, place._replace(index_crc32c=crc32c.crc32c(bytes(index))))

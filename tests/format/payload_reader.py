"""A second reader of payloads, written from docs/FORMAT.md alone: both formats, chunk tables, bases, details, digests, footers.

It shares no code with the product. `reader.py` decodes the records.
"""

import functools
import json
import math
import struct
from typing import NamedTuple

import crc32c
import xxhash

from format.reader import HEADER, decode
from format.words import check, split

END = struct.Struct("<7I")
END_WITH_BASES = struct.Struct("<9I")
RUN = struct.Struct("<III")
OTHER = struct.Struct("<QIII")
DETAIL = struct.Struct("<16sIHBBI3dI4d3I")
FOOTER_END = struct.Struct("<III8s")

decode_once = functools.cache(decode)  # the generations of a tensor share records


class Place(NamedTuple):
    """Where a payload is, as a row, a chunk table or a footer tells."""

    key: str
    length: int  # without the footer
    index_length: int
    index_crc32c: int


class Spec(NamedTuple):
    """What a tensor is, and how it is cut into chunks."""

    dtype: int
    element_bytes: int
    shape: list[int]
    chunk_bytes: int

    @property
    def chunk_count(self):
        """The number of chunks."""
        return -(-math.prod(self.shape) * self.element_bytes // self.chunk_bytes)


class Run(NamedTuple):
    """Consecutive chunks whose records are consecutive in one payload."""

    payload: int
    first: int
    count: int


class Detail(NamedTuple):
    """The details of one chunk."""

    digest: bytes
    quantized_bytes: int
    encoding: list
    fallback: str | None
    error: tuple | None  # finite values, rms of the error, rms of the values, largest error
    summary: tuple | None  # finite values, minimum, maximum, sum, sum of squares, zeros, NaNs, infinities


class Payload(NamedTuple):
    """What a payload has; None where format 1 has nothing."""

    records: list[bytes]
    details: list[Detail] | None
    runs: list[Run] | None  # None: record n is that of chunk n
    others: list[Place] | None
    base_runs: list[Run] | None = None  # None: no record needs a base
    base_places: list[Place] | None = None
    depth: int = 0


def checked(data, length, expected_crc32c, what):
    """The bytes, whose length and CRC32C are these."""
    check(len(data) == length and crc32c.crc32c(data) == expected_crc32c, f"{what}: damaged")
    return data


def read_payload(data, place):
    """Read a payload; FormatError where it breaks a rule of the format, or is damaged."""
    check(len(data) == place.length >= place.index_length, "the payload has another length")
    begin = place.length - place.index_length
    index = checked(data[begin:], place.index_length, place.index_crc32c, "the chunk index")
    details = runs = others = base_runs = base_places = None
    depth = 0
    if place.index_length % 8 == 4:
        check(len(index) >= END.size, "the chunk index is too short")
        version, last = struct.unpack("<II", index[-8:])
        check(version in {2, 3}, "another version")
        end = END if version == 2 else END_WITH_BASES
        check(len(index) >= end.size, "the chunk index is too short")
        records, details_bytes, details_crc32c, table_bytes, table_crc32c, *bases = end.unpack(index[-end.size :])[:-2]
        check(len(index) == 8 * records + end.size, "another number of records")
        index = index[: -end.size]
        table_begin = begin - details_bytes - table_bytes
        check(table_begin >= 0, "the payload is too short")
        stored = checked(data[begin - details_bytes : begin], details_bytes, details_crc32c, "the chunk details")
        details = read_details(stored, records)
        table = checked(data[table_begin : begin - details_bytes], table_bytes, table_crc32c, "the chunk table")
        if table_bytes:
            runs, others = read_table(table)
        begin = table_begin
        if bases:
            bases_bytes, bases_crc32c = bases
            depth = last
            check(1 <= depth <= 8 and 1 <= bases_bytes <= begin, "another depth, or a base section of another length")
            begin -= bases_bytes
            section = checked(data[begin:table_begin], bases_bytes, bases_crc32c, "the base section")
            base_runs, base_places = read_table(section)
            check(sum(run.count for run in base_runs) == records, "another number of records in the base section")
            check(all(run.first == 0 for run in base_runs if run.payload == 0), "a record of no base")
    check(len(index) % 8 == 0, "the chunk index has no whole entries")
    found = list(read_records(data[:begin], index, place.key))
    return Payload(found, details, runs, others, base_runs, base_places, depth)


def read_records(data, index, key):
    """Yield each record, after comparing it with its entry in the chunk index."""
    name = key.rpartition("/")[2].encode("ascii")
    sizes = [size for size, _ in struct.iter_unpack("<II", index)]
    entries = zip(split(data, *sizes), struct.iter_unpack("<II", index), strict=True)
    for number, (record, (_, seeded)) in enumerate(entries):
        seed = crc32c.crc32c(name + struct.pack("<Q", number))
        check(crc32c.crc32c(record) ^ seed == seeded, f"record {number} is damaged")
        yield record


def read_details(stored, count):
    """The details of `count` chunks."""
    texts = json.loads(stored[DETAIL.size * count :].decode("utf-8"))
    check(texts.keys() == {"encodings", "fallbacks"} and len(texts["fallbacks"]) <= 254, "the details have other texts")
    found = []
    for fields in DETAIL.iter_unpack(stored[: DETAIL.size * count]):
        digest, quantized_bytes, encoding, fallback, flags, *numbers = fields
        check(flags <= 3, "unknown flags")
        error, summary = tuple(numbers[:4]), tuple(numbers[4:])
        check(flags & 1 or not any(error), "an error of a lossless chunk")
        check(flags & 2 or not any(summary), "a summary that does not exist")
        reason = texts["fallbacks"][fallback - 1] if fallback else None
        steps = texts["encodings"][encoding]
        found.append(
            Detail(digest, quantized_bytes, steps, reason, error if flags & 1 else None, summary if flags & 2 else None)
        )
    check(len(found) == count, "the chunk details are too short")
    return found


def read_table(stored):
    """The runs of a chunk table, and the places of the other payloads."""
    check(len(stored) >= 8, "the chunk table is too short")
    other_count, run_count = struct.unpack_from("<II", stored)
    at = 8 + RUN.size * run_count
    check(len(stored) >= at, "the chunk table is too short")
    runs = [Run(*fields) for fields in RUN.iter_unpack(stored[8:at])]
    others = []
    for _ in range(other_count):
        check(len(stored) >= at + OTHER.size, "the chunk table is too short")
        length, index_length, index_crc32c, key_bytes = OTHER.unpack_from(stored, at)
        at += OTHER.size + key_bytes
        others.append(Place(stored[at - key_bytes : at].decode("ascii"), length, index_length, index_crc32c))
    check(at == len(stored), "the chunk table has another length")
    check({run.payload for run in runs} <= set(range(other_count + 1)), "a run of an unknown payload")
    check(set(range(1, other_count + 1)) <= {run.payload for run in runs}, "a payload without a run")
    return runs, others


def read_footer(data):
    """The fields of the footer at the end of a payload file, and its offset; None for a file without one."""
    if len(data) < FOOTER_END.size or data[-8:] != b"tensorus":
        return None
    size, version, found, _ = FOOTER_END.unpack(data[-FOOTER_END.size :])
    check(version == 1, "another version of the footer")
    offset = len(data) - FOOTER_END.size - size
    check(offset >= 0 and crc32c.crc32c(data[offset:-12]) == found, "the footer is damaged")
    return json.loads(data[offset : offset + size].decode("utf-8")), offset


def base_of(payload, number, open_other):
    """What the base of a record decodes to; None if it needs none."""
    begin = 0
    for run in payload.base_runs or ():
        if number < begin + run.count:
            if run.payload == 0:
                return None
            other = open_other(payload.base_places[run.payload - 1])
            check(other.depth < payload.depth, "a base that is as deep as what needs it")
            of_base = run.first + number - begin
            check(of_base < len(other.records), "a base beyond the last record")
            return decode_once(other.records[of_base], base_of(other, of_base, open_other))
        begin += run.count
    return None


class Chunk(NamedTuple):
    """A chunk of a tensor, decoded."""

    canonical: bytes
    record: bytes
    detail: Detail | None

    @property
    def is_quantized(self):
        """Whether its record has a quantizer."""
        return HEADER.unpack_from(self.record)[3] != 0


def read_chunks(payload, chunk_count, open_other):
    """Yield the chunks of a tensor, in order.

    `payload` is the tensor's own one, and `open_other` reads the payload at a place.
    """
    runs = payload.runs
    if runs is None:
        check(len(payload.records) == chunk_count, "another number of chunks")
        runs = [Run(0, 0, chunk_count)]
    check(sum(run.count for run in runs) == chunk_count, "another number of chunks")
    payloads = [payload, *(open_other(place) for place in payload.others or ())]
    for run in runs:
        source = payloads[run.payload]
        check(run.first + run.count <= len(source.records), "a run beyond the last record")
        for number in range(run.first, run.first + run.count):
            record = source.records[number]
            canonical = decode_once(record, base_of(source, number, open_other))
            detail = None if source.details is None else source.details[number]
            check(detail is None or xxhash.xxh3_128(canonical).digest() == detail.digest, "another chunk digest")
            yield Chunk(canonical, record, detail)


def value_checksum(algorithm, spec, chunks):
    """The checksum of a tensor's values; `chunks` are the canonical bytes of each chunk, in order."""
    if algorithm == "xxh3_128":
        return xxhash.xxh3_128(b"".join(chunks)).digest()
    if algorithm == "crc32c":
        return crc32c.crc32c(b"".join(chunks)).to_bytes(4, "big")
    check(algorithm == "xxh3_128_chunks", "an unknown algorithm")
    rank = len(spec.shape)
    head = struct.pack(f"<IIQI{rank}Q", spec.dtype, 8 * spec.element_bytes, spec.chunk_bytes, rank, *spec.shape)
    return xxhash.xxh3_128(head + b"".join(xxhash.xxh3_128(chunk).digest() for chunk in chunks)).digest()

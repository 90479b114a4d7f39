"""The chunk table and the end of an index: stored and parsed, and refused where they are damaged."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from tensorus_server.chunk_table import INDEX_END_BYTES, ChunkTable, IndexEnd, Run
from tensorus_server.model import Locator

OTHERS = [Locator("ab/" + "0" * 32, 0, 5000, 36, 7), Locator("f" * 32, 0, 2**40, 2**32 - 1, 2**32 - 1)]
RUNS = [Run(1, 5, 2), Run(0, 0, 1), Run(2, 0, 300), Run(1, 7, 1), Run(0, 1, 2)]
TABLE = ChunkTable(OTHERS, RUNS)
STORED = TABLE.packed()


def test_it_is_stored_as_the_format_says() -> None:
    table = ChunkTable([Locator("k", 0, 3, 4, 5)], [Run(1, 6, 7)])
    numbers = (1, 1, 1, 6, 7)
    assert table.packed() == b"".join(number.to_bytes(4, "little") for number in numbers) + (
        (3).to_bytes(8, "little") + b"".join(number.to_bytes(4, "little") for number in (4, 5, 1)) + b"k"
    )


@pytest.mark.parametrize("table", [TABLE, ChunkTable([], []), ChunkTable([], [Run(0, 0, 9)])])
def test_what_is_stored_is_parsed(table: ChunkTable) -> None:
    found = ChunkTable.parse(table.packed())
    assert (found.payloads, found.runs, found.chunk_count) == (table.payloads, table.runs, table.chunk_count)


def test_each_chunk_is_where_its_run_has_it() -> None:
    expected = [(run.payload, run.first + number) for run in RUNS for number in range(run.count)]
    assert TABLE.chunk_count == len(expected) == 306
    assert [TABLE.place(chunk) for chunk in range(306)] == expected


@pytest.mark.parametrize("length", [*range(len(STORED)), len(STORED) + 1, len(STORED) + 50])
def test_a_table_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="chunk table"):
        ChunkTable.parse(STORED.ljust(length, b"\0")[:length])


def test_random_bytes_are_refused_or_parsed_and_nothing_else() -> None:
    source = random.Random(1)
    for _ in range(500):
        damaged = bytearray(STORED)
        damaged[source.randrange(len(damaged))] = source.randrange(256)
        try:
            ChunkTable.parse(bytes(damaged))
        except ValueError:
            continue


class TestIndexEnd:
    """The last bytes of an index of format 2."""

    END = IndexEnd(2, 300, 0x01020304, 52, 6)

    def test_it_is_stored_as_the_format_says(self) -> None:
        numbers = (2, 300, 0x01020304, 52, 6, 2, 0)
        assert self.END.packed() == b"".join(number.to_bytes(4, "little") for number in numbers)
        assert len(self.END.packed()) == INDEX_END_BYTES

    def test_it_is_found_after_the_records(self) -> None:
        assert IndexEnd.parse(bytes(16) + self.END.packed()) == self.END
        assert IndexEnd.parse(IndexEnd(0, 2, 3).packed()) == IndexEnd(0, 2, 3)

    def test_a_newer_version_is_refused(self) -> None:
        stored = bytearray(bytes(16) + self.END.packed())
        stored[-8] = 4
        with pytest.raises(ValueError, match="has version 4, this version of Tensorus knows up to 3"):
            IndexEnd.parse(bytes(stored))

    def test_a_base_section_makes_it_longer(self) -> None:
        end = replace(self.END, bases_bytes=75, bases_crc32c=8, depth=3)
        numbers = (2, 300, 0x01020304, 52, 6, 75, 8, 3, 3)
        assert end.packed() == b"".join(number.to_bytes(4, "little") for number in numbers)
        assert end.nbytes == len(end.packed()) == INDEX_END_BYTES + 8
        # By the length of an index, readers tell the formats apart.
        assert end.nbytes % 8 == INDEX_END_BYTES % 8 == 4
        assert IndexEnd.parse(bytes(16) + end.packed()) == end
        assert end.overhead_bytes == 300 + 52 + 75
        for wrong in (replace(end, depth=0), replace(end, depth=9)):
            with pytest.raises(ValueError, match="must be 1 to 8"):
                IndexEnd.parse(bytes(16) + wrong.packed())
        with pytest.raises(ValueError, match="the chunk index of 2 records has 44 bytes"):
            IndexEnd.parse(bytes(8) + end.packed())
        with pytest.raises(ValueError, match="too few for its end"):
            IndexEnd.parse(end.packed()[-INDEX_END_BYTES:])

    @pytest.mark.parametrize("records", [0, 1, 3])
    def test_an_index_of_another_number_of_records_is_refused(self, records: int) -> None:
        with pytest.raises(ValueError, match=f"the chunk index of 2 records has {8 * records + 28} bytes"):
            IndexEnd.parse(bytes(8 * records) + self.END.packed())

    @pytest.mark.parametrize("length", range(INDEX_END_BYTES))
    def test_an_index_that_is_shorter_than_its_end_is_refused(self, length: int) -> None:
        with pytest.raises(ValueError, match=f"has {length} bytes"):
            IndexEnd.parse(self.END.packed()[-length:] if length else b"")

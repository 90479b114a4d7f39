"""The base section: what is added record by record is what a reader finds."""

from __future__ import annotations

import random

from tensorus_server.base_section import BasePlace, BaseSection
from tensorus_server.chunk_table import ChunkTable, Run
from tensorus_server.model import Locator

LOCATORS = [Locator(f"{number:02x}/{number:032x}", 0, 1000 + number, 36, number) for number in range(3)]


def test_it_has_the_form_of_a_chunk_table() -> None:
    section = BaseSection()
    for record, number in [(2, 5), (3, 6), (4, 8), (7, 9)]:
        section.add(record, BasePlace(LOCATORS[0], number, 0))
    expected = [Run(0, 0, 2), Run(1, 5, 2), Run(1, 8, 1), Run(0, 0, 2), Run(1, 9, 1), Run(0, 0, 3)]
    assert section.packed(11) == ChunkTable(LOCATORS[:1], expected).packed()


def test_every_record_has_the_base_that_was_added() -> None:
    source = random.Random(1)
    for _ in range(100):
        section, expected = BaseSection(), {}
        count = source.randrange(1, 40)
        for record in range(count):
            if source.random() < 0.7:
                place = BasePlace(source.choice(LOCATORS), source.choice((record, record, 7)), source.randrange(8))
                section.add(record, place)
                expected[record] = place
        assert len(section) == len({place.locator for place in expected.values()})
        assert set(section.keys) == {place.locator.key for place in expected.values()}
        assert section.depth == max((place.depth + 1 for place in expected.values()), default=0)
        found = ChunkTable.parse(section.packed(count))
        assert found.chunk_count == count
        for record in range(count):
            payload, number = found.place(record)
            place = expected.get(record)
            assert (payload, number) == (0, number) if place is None else True
            if place is not None:
                assert (found.payloads[payload - 1], number) == (place.locator, place.number)


def test_a_section_without_bases_is_false() -> None:
    assert not BaseSection()
    assert BaseSection().depth == 0

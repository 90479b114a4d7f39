"""The registry: names and numbers are taken once, and a codec without its library says what would bring it."""

from __future__ import annotations

import pytest

from contract.codec_libraries import EXTRAS, LIBRARIES, hidden_library
from support.cases import each
from tensorus_codecs import registry
from tensorus_codecs.abc import Compressor, Filter, Quantizer
from tensorus_codecs.errors import (
    CorruptChunkError,
    InvalidPolicyError,
    UnknownCodecNumberError,
    UnsupportedCodecError,
)
from tensorus_codecs.filters.planes import Planes
from tensorus_codecs.lossless.gzip import Gzip
from tensorus_codecs.registry import (
    Entry,
    Registry,
    available_codecs,
    codec_by_id,
    codec_by_number,
    codec_class,
    codec_id,
)

# Frozen: a line may be added, none may ever change.
CODECS = [
    ("fp16", Quantizer, 1),
    ("int8_block", Quantizer, 2),
    ("bf16", Quantizer, 3),
    ("int4_block", Quantizer, 4),
    ("nf4", Quantizer, 5),
    ("fp8_e4m3fn", Quantizer, 6),
    ("fp8_e5m2", Quantizer, 7),
    ("bitround", Quantizer, 8),
    ("int16_block", Quantizer, 9),
    ("planes", Filter, 1),
    ("rotated_planes", Filter, 2),
    ("delta", Filter, 3),
    ("bitmap", Filter, 4),
    ("packbits", Filter, 5),
    ("constant", Filter, 6),
    ("bf16_planes", Filter, 7),
    ("int_delta", Filter, 8),
    ("gzip", Compressor, 1),
    ("lz4", Compressor, 2),
    ("zstd", Compressor, 3),
    ("blosc_lz4", Compressor, 4),
    ("brotli", Compressor, 5),
    ("pcodec", Compressor, 6),
]
IDS = ", ".join(codec_id for codec_id, _, _ in CODECS)

GZIP = Entry("gzip", Compressor, 1, "tensorus_codecs.lossless.gzip:Gzip")


def test_these_are_the_codecs() -> None:
    assert [(entry.id, entry.kind, entry.number) for entry in available_codecs()] == CODECS


@each("name", [name for name, _, _ in CODECS])
def test_a_class_knows_the_id_and_the_number_that_it_is_registered_under(name: str) -> None:
    entry = next(entry for entry in available_codecs() if entry.id == name)
    loaded = entry.load()
    assert (loaded.id, loaded.number) == (entry.id, entry.number)
    assert issubclass(loaded, entry.kind)


def test_numbers_from_128_on_are_left_to_third_parties() -> None:
    assert all(1 <= number <= 127 for _, _, number in CODECS)


class TestRegistration:
    """What a registry takes, and what it refuses."""

    def test_an_entry_is_found_by_id_and_by_number(self) -> None:
        found = Registry((GZIP,))
        assert found.by_id("gzip") is GZIP
        assert found.by_number(Compressor, 1) is GZIP
        assert found.ids() == ["gzip"]

    def test_what_was_never_registered_is_not_found(self) -> None:
        found = Registry((GZIP,))
        assert found.by_id("zstd") is None
        assert found.by_number(Compressor, 2) is None
        assert found.by_number(Quantizer, 1) is None
        assert Registry().ids() == []

    def test_ids_are_in_the_order_of_registration(self) -> None:
        found = Registry()
        for number, name in enumerate(["zeta", "alpha", "mu"], 1):
            found.register(Entry(name, Filter, number, "m:C"))
        assert found.ids() == ["zeta", "alpha", "mu"]

    @each(
        ("entry", "message"),
        [
            (
                Entry("gzip", Compressor, 9, "a:B"),
                r"^codec id 'gzip' is taken by tensorus_codecs\.lossless\.gzip:Gzip$",
            ),
            (Entry("gzip", Quantizer, 1, "a:B"), r"^codec id 'gzip' is taken by "),
            (GZIP, r"^codec id 'gzip' is taken by "),
            (Entry("other", Compressor, 1, "a:B"), r"^compressor number 1 of codec 'other' is taken by 'gzip'$"),
            (Entry("other", Compressor, 0, "a:B"), r"^number of codec 'other' is 0, must be 1 to 255$"),
            (Entry("other", Compressor, 256, "a:B"), r"^number of codec 'other' is 256, must be 1 to 255$"),
            (Entry("other", Filter, -1, "a:B"), r"^number of codec 'other' is -1, must be 1 to 255$"),
        ],
        ids=["same id", "same id, other kind", "same entry", "same number", "number 0", "number 256", "negative"],
    )
    def test_a_name_or_number_that_is_taken_is_refused(self, entry: Entry, message: str) -> None:
        found = Registry((GZIP,))
        with pytest.raises(ValueError, match=message):
            found.register(entry)
        assert found.ids() == ["gzip"]
        assert found.by_number(Compressor, 1) is GZIP
        assert found.by_number(entry.kind, entry.number) in {None, GZIP}

    def test_kinds_have_numbers_of_their_own(self) -> None:
        found = Registry((GZIP, Entry("planes", Filter, 1, "a:B"), Entry("last", Filter, 255, "a:B")))
        assert found.by_number(Filter, 1) is not GZIP
        assert found.ids() == ["gzip", "planes", "last"]


class TestLookup:
    """By id, as people and the wire do, and by number, as a chunk record does."""

    def test_a_codec_comes_with_its_settings(self) -> None:
        assert codec_by_id("gzip", {"level": 9}) == Gzip(level=9)
        assert codec_by_id("gzip", {}) == Gzip()

    def test_settings_that_the_codec_refuses_are_a_wrong_policy(self) -> None:
        with pytest.raises(InvalidPolicyError, match=r"^level of codec gzip is 0, must be an integer from 1 to 9$"):
            codec_by_id("gzip", {"level": 0})

    @each("name", ["middle_out", "GZIP", "", "gzip "])
    def test_an_unknown_id_is_refused_with_those_that_are_known_and_what_may_bring_it(self, name: str) -> None:
        message = (
            rf"^codec '{name}' is not one of {IDS}; "
            r"a package with an entry point in the group 'tensorus\.codecs' may provide it$"
        )
        for look_up in (codec_class, lambda unknown: codec_by_id(unknown, {})):
            with pytest.raises(UnsupportedCodecError, match=message):
                look_up(name)

    @each(
        ("kind", "number", "name"),
        [
            (Quantizer, 99, "quantizer"),
            (Filter, 127, "filter"),
            (Compressor, 99, "compressor"),
            (Compressor, 0, "compressor"),
        ],
    )
    def test_a_number_of_ours_that_no_codec_has_is_damage(self, kind: type, number: int, name: str) -> None:
        message = rf"^{name} number is {number}, which this version assigns to no codec$"
        for look_up in (codec_by_number, codec_id):
            with pytest.raises(CorruptChunkError, match=message) as caught:
                look_up(kind, number)
            assert not isinstance(caught.value, UnsupportedCodecError)

    @pytest.mark.parametrize(
        ("kind", "number", "name"),
        [(Quantizer, 128, "quantizer"), (Compressor, 200, "compressor"), (Filter, 255, "filter")],
    )
    def test_a_third_partys_number_is_damage_or_a_missing_package(self, kind: type, number: int, name: str) -> None:
        message = (
            rf"^{name} number is {number}, which is reserved for third parties; "
            r"no installed package provides it through an entry point in the group 'tensorus\.codecs'$"
        )
        for look_up in (codec_by_number, codec_id):
            with pytest.raises(UnknownCodecNumberError, match=message) as caught:
                look_up(kind, number)
            assert isinstance(caught.value, CorruptChunkError)
            assert isinstance(caught.value, UnsupportedCodecError)

    def test_an_entry_under_the_wrong_kind_is_a_mistake_of_ours(self, monkeypatch: pytest.MonkeyPatch) -> None:
        wrong = Entry("wrong", Filter, 9, "tensorus_codecs.lossless.gzip:Gzip")
        monkeypatch.setattr(registry, "_REGISTRY", Registry((wrong,)))
        with pytest.raises(TypeError, match=r"gzip:Gzip is registered as a Filter, but is not one$"):
            codec_by_number(Filter, 9)


@each("name", LIBRARIES)
class TestMissingLibrary:
    """A codec whose library is not installed."""

    def test_it_names_itself_the_library_and_what_brings_it(self, name: str) -> None:
        library = LIBRARIES[name]
        message = (
            rf"^codec '{name}' needs the library '{library}', which is not installed; "
            rf"pip install 'tensorus\[{EXTRAS[name]}\]' installs it$"
        )
        with hidden_library(name):
            for look_up in (codec_class, lambda missing: codec_by_id(missing, {})):
                with pytest.raises(UnsupportedCodecError, match=message) as caught:
                    look_up(name)
                assert isinstance(caught.value.__cause__, ImportError)

    def test_a_record_that_needs_it_is_not_called_damaged(self, name: str) -> None:
        number = next(number for known, _, number in CODECS if known == name)
        with hidden_library(name), pytest.raises(UnsupportedCodecError, match=f"^codec '{name}' needs"):
            codec_by_number(Compressor, number)

    def test_its_id_is_known_all_the_same(self, name: str) -> None:
        number = next(number for known, _, number in CODECS if known == name)
        with hidden_library(name):
            assert codec_id(Compressor, number) == name

    def test_it_is_not_available_and_the_others_are(self, name: str) -> None:
        with hidden_library(name):
            assert [entry.id for entry in available_codecs()] == [known for known, _, _ in CODECS if known != name]
        assert [entry.id for entry in available_codecs()] == [known for known, _, _ in CODECS]


def test_a_class_is_the_same_after_a_library_came_back() -> None:
    with hidden_library("lz4"):
        pass
    assert codec_class("planes") is Planes
    assert codec_by_number(Compressor, 2) is codec_class("lz4")

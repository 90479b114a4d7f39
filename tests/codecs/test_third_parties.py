"""Codecs of third parties: found by their entry points, and never a danger to ours or to each other."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from contract.codec_chunks import encode, encoding_of, record_bytes, stored_values
from contract.codec_compressor_contract import CompressorContract
from contract.codec_contract import Refusal, SettingsContract, in_threads
from support.cases import each
from support.third_party import example, installed, look_anew
from tensorus_codecs import registry
from tensorus_codecs.abc import Compressor, Filter, Quantizer
from tensorus_codecs.chunk_record import parse_record
from tensorus_codecs.errors import CorruptChunkError, UnknownCodecNumberError, UnsupportedCodecError
from tensorus_codecs.pipeline import codec_ids, decode_chunk
from tensorus_codecs.registry import available_codecs, codec_by_number, codec_class, codec_id

OURS = [entry.id for entry in available_codecs()]

VALUES = np.arange(5000, dtype=np.int32)

SOURCE = """
from typing import ClassVar
from tensorus_codecs.abc import Compressor
from tensorus_codecs.lossless.gzip import Gzip

class Good(Gzip):
    id = "good"
    number = 200

class Other(Gzip):
    id = "other"
    number = 201

class Rival(Gzip):
    id = "rival"
    number = 201

class Ours(Gzip):
    id = "gzip"
    number = 202

class TooSmall(Gzip):
    id = "too_small"
    number = 127

class TooLarge(Gzip):
    id = "too_large"
    number = 256

class Truth(Gzip):
    id = "truth"
    number = True

class Abstract(Compressor):
    id = "abstract"
    number = 203

class Nameless(Compressor):
    def encode(self, data): ...
    @classmethod
    def decode(cls, data, decoded_bytes): ...

class Stranger:
    id = "stranger"
    number = 204

instance = Good()
"""


@pytest.fixture(scope="class")
def example_package(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The package of the example in CONTRIBUTING.md, installed."""
    entry_points, modules = example()
    folder = tmp_path_factory.mktemp("zlib")
    with installed(folder, name="tensorus-zlib", entry_points=entry_points, modules=modules):
        request.cls.codec_type = codec_class("zlib")
        yield


@pytest.mark.usefixtures("example_package")
class TestExample(CompressorContract, SettingsContract):
    """What CONTRIBUTING.md shows keeps every promise of a compressor."""

    id = "zlib"
    number = 128

    configurations = (
        {},
        {"level": 1},
    )

    refusals = tuple(Refusal("level", value, "an integer from 1 to 9") for value in (0, 10, 6.0, "6", True, None))


@pytest.mark.usefixtures("example_package")
class TestInstalled:
    """A package that is installed."""

    def test_chunks_pass_its_codec_and_come_back(self) -> None:
        chunk = encode(VALUES, encoding_of("planes", "zlib"))
        assert [codec.id for codec in chunk.encoding.codecs] == ["planes", "zlib"]
        assert chunk.stored_bytes < VALUES.nbytes // 4
        assert stored_values(chunk, VALUES).tobytes() == VALUES.tobytes()

    def test_its_record_names_it_by_number(self) -> None:
        record = parse_record(record_bytes(encode(VALUES, encoding_of("zlib"))))
        assert [stream.compressor for stream in record.streams] == [128]
        assert codec_ids(record) == ("zlib",)

    def test_it_is_listed_after_ours(self) -> None:
        entries = available_codecs()
        assert [entry.id for entry in entries] == [*OURS, "zlib"]
        assert (entries[-1].kind, entries[-1].number) == (Compressor, 128)
        assert entries[-1].load() is codec_class("zlib") is codec_by_number(Compressor, 128)

    def test_its_number_is_its_own_within_its_kind_alone(self) -> None:
        for kind in (Quantizer, Filter):
            with pytest.raises(UnknownCodecNumberError):
                codec_by_number(kind, 128)

    def test_an_unknown_id_is_refused_with_this_one_among_those_that_are_known(self) -> None:
        with pytest.raises(UnsupportedCodecError, match=r"^codec 'zilb' is not one of .*, pcodec, zlib; a package "):
            codec_class("zilb")

    def test_every_thread_finds_the_same(self) -> None:
        sys.modules.pop("tensorus_zlib", None)
        look_anew()
        assert len(set(in_threads(lambda: codec_by_number(Compressor, 128)))) == 1


class TestNotInstalled:
    """The same package, gone."""

    @pytest.fixture
    def record(self, tmp_path: Path) -> bytes:
        entry_points, modules = example()
        with installed(tmp_path, name="tensorus-zlib", entry_points=entry_points, modules=modules):
            return record_bytes(encode(VALUES, encoding_of("zlib")))

    def test_its_record_is_not_simply_damaged(self, record: bytes) -> None:
        message = (
            r"^compressor number is 128, which is reserved for third parties; "
            r"no installed package provides it through an entry point in the group 'tensorus\.codecs'$"
        )
        with pytest.raises(UnsupportedCodecError, match=message):
            decode_chunk(record)
        with pytest.raises(UnsupportedCodecError, match=message):
            codec_ids(parse_record(record))

    def test_its_record_may_yet_be_damaged(self, record: bytes) -> None:
        with pytest.raises(CorruptChunkError):
            decode_chunk(record)

    def test_its_id_is_unknown(self, record: bytes) -> None:
        with pytest.raises(
            UnsupportedCodecError, match=r"^codec 'zlib' is not one of .*'tensorus\.codecs' may provide it$"
        ):
            encoding_of("zlib")


class TestLazy:
    """A package is imported when it may be needed, and not before."""

    SOURCE = "raise SystemError('was imported')"

    @pytest.fixture(autouse=True)
    def package(self, tmp_path: Path) -> Iterator[None]:
        entry_points = {"lazy": "tensorus_lazy:Lazy"}
        with installed(tmp_path, name="lazy", entry_points=entry_points, modules={"tensorus_lazy": self.SOURCE}):
            yield

    def test_ours_are_found_without_looking_at_packages(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def load_third_parties(taken: object) -> None:
            raise AssertionError("looked for third parties")

        monkeypatch.setattr(registry, "load_third_parties", load_third_parties)
        assert codec_class("gzip") is codec_by_number(Compressor, 1)
        assert codec_id(Compressor, 1) == "gzip"
        values = np.zeros(100)
        assert stored_values(encode(values, "lossless"), values).tobytes() == values.tobytes()
        with pytest.raises(CorruptChunkError, match="which this version assigns to no codec"):
            codec_id(Compressor, 127)
        with pytest.raises(AssertionError, match="looked for third parties"):
            codec_id(Compressor, 128)

    def test_an_import_that_fails_is_told_to_who_asks_for_it(self) -> None:
        message = (
            r"^codec 'lazy' of package 'lazy' is refused: "
            r"tensorus_lazy:Lazy cannot be imported: SystemError: was imported$"
        )
        with pytest.raises(UnsupportedCodecError, match=message) as caught:
            codec_class("lazy")
        assert isinstance(caught.value.__cause__.__cause__, SystemError)
        assert [entry.id for entry in available_codecs()] == OURS


class TestRefused:
    """Codecs that break a rule are left out, and the others stay."""

    @pytest.fixture(autouse=True)
    def packages(self, tmp_path: Path) -> Iterator[None]:
        points = {
            "good": "Good",
            "other": "Other",
            "rival": "Rival",
            "gzip": "Ours",
            "too_small": "TooSmall",
            "too_large": "TooLarge",
            "truth": "Truth",
            "abstract": "Abstract",
            "nameless": "Nameless",
            "stranger": "Stranger",
            "instance": "instance",
            "absent": "Absent",
            "alias": "Good",
            "twice": "Good",
        }
        first = {name: f"tensorus_strange:{target}" for name, target in points.items()}
        first["nowhere"] = "tensorus_nowhere:Codec"
        with (
            installed(tmp_path / "a", name="strange", entry_points=first, modules={"tensorus_strange": SOURCE}),
            installed(tmp_path / "b", name="again", entry_points={"twice": "tensorus_strange:Other"}, modules={}),
        ):
            yield

    @each(
        ("name", "rule"),
        [
            ("other", "compressor number 201 is that of other, rival"),
            ("rival", "compressor number 201 is that of other, rival"),
            ("too_small", "its number is 127, must be 128 to 255"),
            ("too_large", "its number is 256, must be 128 to 255"),
            ("truth", "its number is True, must be 128 to 255"),
            ("abstract", "tensorus_strange:Abstract does not implement decode, encode"),
            ("nameless", "tensorus_strange:Nameless has the id None"),
            ("stranger", "tensorus_strange:Stranger is not a subclass of Quantizer, Filter or Compressor"),
            ("instance", "tensorus_strange:instance is not a subclass of Quantizer, Filter or Compressor"),
            ("absent", "tensorus_strange:Absent cannot be imported: AttributeError: .*"),
            ("nowhere", "tensorus_nowhere:Codec cannot be imported: ModuleNotFoundError: .*"),
            ("alias", "tensorus_strange:Good has the id 'good'"),
        ],
    )
    def test_one_that_breaks_a_rule_is_refused_with_the_rule(self, name: str, rule: str) -> None:
        for _ in range(2):
            with pytest.raises(
                UnsupportedCodecError, match=rf"^codec '{name}' of package 'strange' is refused: {rule}$"
            ):
                codec_class(name)

    def test_one_of_two_packages_is_refused_with_both(self) -> None:
        message = r"^codec 'twice' of package 'again', 'strange' is refused: more than one package provides it$"
        with pytest.raises(UnsupportedCodecError, match=message):
            codec_class("twice")

    def test_our_ids_stay_ours(self) -> None:
        assert codec_class("gzip").number == 1
        with pytest.raises(UnknownCodecNumberError):
            codec_id(Compressor, 202)

    def test_the_others_are_found_and_listed(self) -> None:
        assert [entry.id for entry in available_codecs()] == [*OURS, "good"]
        assert codec_class("good") is importlib.import_module("tensorus_strange").Good
        assert codec_id(Compressor, 200) == "good"

    @pytest.mark.parametrize("number", [201, 203, 204])
    def test_numbers_of_those_that_are_refused_belong_to_nobody(self, number: int) -> None:
        with pytest.raises(
            UnknownCodecNumberError, match=f"^compressor number is {number}, which is reserved for third parties"
        ):
            codec_by_number(Compressor, number)

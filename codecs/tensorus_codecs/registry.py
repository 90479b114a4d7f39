"""Looks up codecs by id and by number: built-in ones first, then those of third parties (`third_parties.py`).

A registered id or number is never reused. A codec's class is imported on first use: a codec whose library is missing costs
nothing until someone asks for it, and the error then names the extra that installs the library. Third-party packages are
discovered once per process.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from tensorus_codecs.abc import Codec, Compressor, Filter, Quantizer
from tensorus_codecs.errors import CorruptChunkError, UnknownCodecNumberError, UnsupportedCodecError
from tensorus_codecs.third_parties import GROUP, NUMBER_MIN, kind_of, load_third_parties

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tensorus_codecs.third_parties import ThirdParties

__all__ = ["Entry", "Registry", "available_codecs", "codec_by_id", "codec_by_number", "codec_class", "codec_id"]

C = TypeVar("C", bound=Codec)


@dataclass(frozen=True)
class Entry:
    """The names and the location of a codec."""

    id: str
    """Name for people and on the wire."""
    kind: type[Codec]
    """`Quantizer`, `Filter` or `Compressor`."""
    number: int
    """Name in the chunk record, within its kind: 1 to 127 built in, 128 to 255 third party."""
    location: str
    """`module:class`."""
    extra: str = "codecs"
    """The extra of the distribution that installs its library."""
    loaded: type[Codec] | None = None
    """The class, if already imported: set for third-party codecs."""

    def load(self) -> type[Codec]:
        """Import and return the class.

        Raises:
            UnsupportedCodecError: its library is not installed.
        """
        if self.loaded is not None:
            return self.loaded
        # Imported here and not at the top, so that a missing library matters only to those who use its codec.
        module_name, class_name = self.location.split(":")
        try:
            loaded: type[Codec] = getattr(importlib.import_module(module_name), class_name)
        except ImportError as error:
            raise UnsupportedCodecError(
                f"codec {self.id!r} needs the library {error.name!r}, which is not installed; "
                f"pip install 'tensorus[{self.extra}]' installs it"
            ) from error
        return loaded


class Registry:
    """Entries by id and by (kind, number). Neither may be registered twice."""

    def __init__(self, entries: tuple[Entry, ...] = ()) -> None:
        """Start with `entries`."""
        self._by_id: dict[str, Entry] = {}
        self._by_number: dict[tuple[type[Codec], int], Entry] = {}
        for entry in entries:
            self.register(entry)

    def register(self, entry: Entry) -> None:
        """Add `entry`.

        Raises:
            ValueError: the id is taken, the number is taken within its kind, or the number is not 1 to 255.
        """
        kind_name = entry.kind.__name__.lower()
        if entry.id in self._by_id:
            raise ValueError(f"codec id {entry.id!r} is taken by {self._by_id[entry.id].location}")
        if not 1 <= entry.number <= 255:
            raise ValueError(f"number of codec {entry.id!r} is {entry.number}, must be 1 to 255")
        if (entry.kind, entry.number) in self._by_number:
            taken_by = self._by_number[entry.kind, entry.number].id
            raise ValueError(f"{kind_name} number {entry.number} of codec {entry.id!r} is taken by {taken_by!r}")
        self._by_id[entry.id] = entry
        self._by_number[entry.kind, entry.number] = entry

    def by_id(self, codec_id: str) -> Entry | None:
        """Return the entry called `codec_id`, or None."""
        return self._by_id.get(codec_id)

    def by_number(self, kind: type[Codec], number: int) -> Entry | None:
        """Return the entry of this kind and number, or None."""
        return self._by_number.get((kind, number))

    def ids(self) -> list[str]:
        """Return every registered id, in order of registration."""
        return list(self._by_id)


_REGISTRY = Registry(
    (
        Entry("fp16", Quantizer, 1, "tensorus_codecs.quantizers.fp16:Fp16"),
        Entry("int8_block", Quantizer, 2, "tensorus_codecs.quantizers.int8_block:Int8Block"),
        Entry("bf16", Quantizer, 3, "tensorus_codecs.quantizers.bf16:Bf16"),
        Entry("int4_block", Quantizer, 4, "tensorus_codecs.quantizers.int4_block:Int4Block"),
        Entry("nf4", Quantizer, 5, "tensorus_codecs.quantizers.nf4:Nf4"),
        Entry("fp8_e4m3fn", Quantizer, 6, "tensorus_codecs.quantizers.fp8:Fp8E4M3Fn"),
        Entry("fp8_e5m2", Quantizer, 7, "tensorus_codecs.quantizers.fp8:Fp8E5M2"),
        Entry("bitround", Quantizer, 8, "tensorus_codecs.quantizers.bitround:BitRound"),
        Entry("int16_block", Quantizer, 9, "tensorus_codecs.quantizers.int16_block:Int16Block"),
        Entry("planes", Filter, 1, "tensorus_codecs.filters.planes:Planes"),
        Entry("rotated_planes", Filter, 2, "tensorus_codecs.filters.planes:RotatedPlanes"),
        Entry("delta", Filter, 3, "tensorus_codecs.filters.delta:Delta"),
        Entry("bitmap", Filter, 4, "tensorus_codecs.filters.bitmap:Bitmap"),
        Entry("packbits", Filter, 5, "tensorus_codecs.filters.packbits:PackBits"),
        Entry("constant", Filter, 6, "tensorus_codecs.filters.constant:Constant"),
        Entry("bf16_planes", Filter, 7, "tensorus_codecs.filters.bf16_planes:Bf16Planes"),
        Entry("int_delta", Filter, 8, "tensorus_codecs.filters.int_delta:IntDelta"),
        Entry("gzip", Compressor, 1, "tensorus_codecs.lossless.gzip:Gzip"),
        Entry("lz4", Compressor, 2, "tensorus_codecs.lossless.lz4:Lz4"),
        Entry("zstd", Compressor, 3, "tensorus_codecs.lossless.zstd:Zstd"),
        Entry("blosc_lz4", Compressor, 4, "tensorus_codecs.lossless.blosc_lz4:BloscLz4"),
        Entry("brotli", Compressor, 5, "tensorus_codecs.lossless.brotli:Brotli", extra="archive"),
        Entry("pcodec", Compressor, 6, "tensorus_codecs.lossless.pcodec:Pcodec", extra="archive"),
    )
)


def available_codecs() -> list[Entry]:
    """Return the built-in entries whose library is installed, in order of registration, then third-party entries."""
    found = []
    for codec_id in _REGISTRY.ids():
        entry = _REGISTRY.by_id(codec_id)
        try:
            if entry is not None:
                entry.load()
                found.append(entry)
        except UnsupportedCodecError:
            # Its library is not installed.
            continue
    return [*found, *map(_third_party_entry, _third_parties().classes.values())]


def codec_class(codec_id: str) -> type[Codec]:
    """Return the class called `codec_id`.

    Raises:
        UnsupportedCodecError: no codec has this id, its library is not installed, or it is a refused third-party codec.
    """
    entry = _REGISTRY.by_id(codec_id)
    return _third_party_class(codec_id) if entry is None else entry.load()


def codec_by_id(codec_id: str, configuration: Mapping[str, object]) -> Codec:
    """Return the codec called `codec_id` with these settings.

    Raises:
        UnsupportedCodecError: no codec has this id, or its library is not installed.
        InvalidPolicyError: the codec refuses the settings.
    """
    return codec_class(codec_id).from_configuration(configuration)


def codec_id(kind: type[Codec], number: int) -> str:
    """Return the id of the codec of this kind and number, whether or not its library is installed.

    Raises:
        CorruptChunkError: no codec of this kind has the number.
        UnknownCodecNumberError: likewise, and it is a third party's number.
    """
    return _entry_by_number(kind, number).id


def codec_by_number(kind: type[C], number: int) -> type[C]:
    """Return the class of this kind and number, as a chunk record names it.

    Raises:
        UnsupportedCodecError: the number belongs to a codec whose library is not installed.
        CorruptChunkError: no codec of this kind has the number.
        UnknownCodecNumberError: likewise, and it is a third party's number.
    """
    entry = _entry_by_number(kind, number)
    found = entry.load()
    if not issubclass(found, kind):
        raise TypeError(f"{entry.location} is registered as a {kind.__name__}, but is not one")
    return found


def _entry_by_number(kind: type[Codec], number: int) -> Entry:
    entry = _REGISTRY.by_number(kind, number)
    if entry is not None:
        return entry
    kind_name = kind.__name__.lower()
    # Third-party packages cannot have this number, so do not import them just to report damage.
    if number < NUMBER_MIN:
        raise CorruptChunkError(f"{kind_name} number is {number}, which this version assigns to no codec")
    for codec in _third_parties().classes.values():
        if issubclass(codec, kind) and codec.number == number:
            return _third_party_entry(codec)
    raise UnknownCodecNumberError(
        f"{kind_name} number is {number}, which is reserved for third parties; "
        f"no installed package provides it through an entry point in the group {GROUP!r}"
    )


@cache
def _third_parties() -> ThirdParties:
    return load_third_parties(taken=_REGISTRY.ids())


def _third_party_class(codec_id: str) -> type[Codec]:
    found = _third_parties()
    refusal = found.refused.get(codec_id)
    if refusal is not None:
        # Raise a new error: the stored one is shared by all threads, and raising it would change its traceback.
        raise UnsupportedCodecError(str(refusal)) from refusal
    codec = found.classes.get(codec_id)
    if codec is None:
        known = ", ".join([*_REGISTRY.ids(), *found.classes])
        raise UnsupportedCodecError(
            f"codec {codec_id!r} is not one of {known}; a package with an entry point in the group {GROUP!r} may provide it"
        )
    return codec


def _third_party_entry(codec: type[Codec]) -> Entry:
    return Entry(codec.id, kind_of(codec), codec.number, f"{codec.__module__}:{codec.__qualname__}", loaded=codec)

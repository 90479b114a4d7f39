"""Third-party codecs: a package provides a codec through an entry point.

    group   `tensorus.codecs`
    name    the codec's id
    object  its class: a subclass of `Quantizer`, `Filter` or `Compressor` with this id and a number from 128 to 255

Numbers 1 to 127 are built in. No package is imported until someone asks for a codec that is not built in, or lists all codecs.
Then all packages are imported at once, so that the result does not depend on the order of requests. A codec that breaks a
rule is left out, and so is any codec that it collides with; the others remain.
"""

from __future__ import annotations

import inspect
from collections import Counter, defaultdict
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from tensorus_codecs.abc import Compressor, Filter, Quantizer
from tensorus_codecs.errors import UnsupportedCodecError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from importlib.metadata import EntryPoint

    from tensorus_codecs.abc import Codec

__all__ = ["GROUP", "NUMBER_MAX", "NUMBER_MIN", "ThirdParties", "kind_of", "load_third_parties"]

GROUP = "tensorus.codecs"
"""Group of the entry points."""

NUMBER_MIN = 128
"""First number for third parties."""

NUMBER_MAX = 255
"""Last number: numbers are one byte."""

_KINDS: tuple[type[Codec], ...] = (Quantizer, Filter, Compressor)


@dataclass(frozen=True)
class ThirdParties:
    """The codecs that installed packages provide."""

    classes: Mapping[str, type[Codec]]
    """Accepted codecs by id, in alphabetical order."""
    refused: Mapping[str, UnsupportedCodecError]
    """Refused codecs by id: the error names the codec, the package and the broken rule."""


def kind_of(codec: type[Codec]) -> type[Codec]:
    """Return the base of `codec`: `Quantizer`, `Filter` or `Compressor`."""
    return next(kind for kind in _KINDS if issubclass(codec, kind))


def load_third_parties(taken: Collection[str]) -> ThirdParties:
    """Import every codec of the group.

    Thread-safe: concurrent calls import the same classes.

    Args:
        taken: built-in ids.
    """
    points: dict[str, list[EntryPoint]] = defaultdict(list)
    for point in entry_points(group=GROUP):
        points[point.name].append(point)
    classes: dict[str, type[Codec]] = {}
    refused: dict[str, UnsupportedCodecError] = {}
    for codec_id in sorted(points):
        try:
            classes[codec_id] = _load(points[codec_id], taken)
        except UnsupportedCodecError as error:
            refused[codec_id] = error
    # Refuse both sides of a collision: which of them wrote a stored record cannot be told.
    uses = Counter((kind_of(codec), codec.number) for codec in classes.values())
    for codec_id, codec in list(classes.items()):
        kind = kind_of(codec)
        if uses[kind, codec.number] > 1:
            others = [
                other for other, rival in classes.items() if (kind_of(rival), rival.number) == (kind, codec.number)
            ]
            rule = f"{kind.__name__.lower()} number {codec.number} is that of {', '.join(sorted(others))}"
            refused[codec_id] = _refusal(points[codec_id], rule)
    return ThirdParties({key: codec for key, codec in classes.items() if key not in refused}, refused)


def _load(points: Sequence[EntryPoint], taken: Collection[str]) -> type[Codec]:
    """Import the class that `points`, which must be a single entry point, names.

    Raises:
        UnsupportedCodecError: the codec breaks a rule, or its import fails.
    """
    point = points[0]
    if point.name in taken:
        raise _refusal(points, "the id is one of ours")
    if len(points) > 1:
        raise _refusal(points, "more than one package provides it")
    try:
        codec = point.load()
    except Exception as error:
        # A foreign module may raise anything. Report it to whoever asks for the codec.
        raise _refusal(points, f"{point.value} cannot be imported: {type(error).__name__}: {error}") from error
    if not (isinstance(codec, type) and issubclass(codec, _KINDS)):
        raise _refusal(points, f"{point.value} is not a subclass of Quantizer, Filter or Compressor")
    if inspect.isabstract(codec):
        missing = ", ".join(sorted(codec.__abstractmethods__))
        raise _refusal(points, f"{point.value} does not implement {missing}")
    found_id, number = getattr(codec, "id", None), getattr(codec, "number", None)
    if found_id != point.name:
        raise _refusal(points, f"{point.value} has the id {found_id!r}")
    if type(number) is not int or not NUMBER_MIN <= number <= NUMBER_MAX:
        raise _refusal(points, f"its number is {number!r}, must be {NUMBER_MIN} to {NUMBER_MAX}")
    return codec


def _refusal(points: Sequence[EntryPoint], rule: str) -> UnsupportedCodecError:
    packages = ", ".join(sorted({repr(point.dist.name) if point.dist else "an unnamed one" for point in points}))
    return UnsupportedCodecError(f"codec {points[0].name!r} of package {packages} is refused: {rule}")

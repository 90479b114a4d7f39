"""Codecs of third parties: a package brings its own by an entry point.

    group   `tensorus.codecs`
    name    the codec's id
    object  its class: of `Quantizer`, `Filter` or `Compressor`, with this id, and a number from 128 to 255

Numbers 1 to 127 are ours. Nothing of a package is imported before a codec is asked for that is not ours, or all of them are
listed; then all are, so that what is found does not depend on the order of questions. One that breaks a rule is left out,
together with what it collides with, and the others stay.
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
"""Of the entry points."""

NUMBER_MIN = 128
"""A third party's first number."""

NUMBER_MAX = 255
"""The last: a number is one byte."""

_KINDS: tuple[type[Codec], ...] = (Quantizer, Filter, Compressor)


@dataclass(frozen=True)
class ThirdParties:
    """What the installed packages bring."""

    classes: Mapping[str, type[Codec]]
    """By id, those that keep the rules, in alphabetical order."""
    refused: Mapping[str, UnsupportedCodecError]
    """By id, why the others are left out: names the codec, the package, and the rule."""


def kind_of(codec: type[Codec]) -> type[Codec]:
    """Return `Quantizer`, `Filter` or `Compressor`, one of which `codec` is."""
    return next(kind for kind in _KINDS if issubclass(codec, kind))


def load_third_parties(taken: Collection[str]) -> ThirdParties:
    """Import every codec of the group.

    Safe in many threads: importing twice at once gives the same classes.

    Args:
        taken: ids that are ours.
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
    """Import the class that the only one of `points` names.

    Raises:
        UnsupportedCodecError: a rule is broken, or importing fails.
    """
    point = points[0]
    if point.name in taken:
        raise _refusal(points, "the id is one of ours")
    if len(points) > 1:
        raise _refusal(points, "more than one package brings it")
    try:
        codec = point.load()
    except Exception as error:
        # A stranger's module may raise anything; whoever asks for its codec is told.
        raise _refusal(points, f"{point.value} cannot be imported: {type(error).__name__}: {error}") from error
    if not (isinstance(codec, type) and issubclass(codec, _KINDS)):
        raise _refusal(points, f"{point.value} is no class of Quantizer, Filter or Compressor")
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

"""Configurations of algorithms with their arguments, and the named presets."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from tensorus.compression._factories import compression_named, quantization_named
from tensorus.compression._tensors import TensorCompression

if TYPE_CHECKING:
    from tensorus.compression._compressors import CompressionAlgorithm
    from tensorus.compression._quantizers import QuantizationAlgorithm
    from tensorus.types import Policy

__all__ = [
    "COMPRESSION_PRESETS",
    "CompressionConfig",
    "get_compression_preset",
]

Arguments: TypeAlias = "Mapping[str, bool | int | float | str | None]"
"""An algorithm's arguments by name."""

_BOUNDS = ("max_relative_error", "max_absolute_error")


@dataclass(init=False)
class CompressionConfig:
    """A compressor and a quantizer with their arguments. Immutable, hashable, and validated on construction.

    `dataclasses.replace(config, compression="lz4")` creates a modified copy.

    A configuration that you construct means exactly this chain, such as gzip over fp16. One from `COMPRESSION_PRESETS` means
    the store's preset of that name, whose encodings are better than its algorithms' names suggest; `preset` holds this name.
    """

    compression: str
    """A name that `create_compression_algorithm` takes."""
    quantization: str
    """A name that `create_quantization_algorithm` takes."""
    compression_kwargs: Arguments
    """The compressor's arguments, such as `compression_level`; read-only."""
    quantization_kwargs: Arguments
    """The quantizer's arguments, such as `max_relative_error`; read-only."""
    preset: str | None = field(default=None, init=False)
    """Name of the store's preset; None: exactly the chain above."""

    def __init__(
        self,
        compression: str = "none",
        quantization: str = "none",
        compression_kwargs: Arguments | None = None,
        quantization_kwargs: Arguments | None = None,
    ) -> None:
        """Copy the arguments; None: the algorithm's defaults.

        Raises:
            ValueError: a name is unknown, or the algorithm lacks an argument or refuses its value.
        """
        values = {
            "compression": compression,
            "quantization": quantization,
            "compression_kwargs": _read_only("compression_kwargs", compression_kwargs),
            "quantization_kwargs": _read_only("quantization_kwargs", quantization_kwargs),
            "preset": None,
        }
        for key, value in values.items():
            object.__setattr__(self, key, value)
        self._algorithms()

    def create_tensor_compression(self) -> TensorCompression:
        """Return an object that compresses tensors accordingly. A missing library is an error only on use; presets avoid it."""
        compression, quantization = self._algorithms()
        return TensorCompression(compression, quantization, preset=self.preset)

    def to_policy(self) -> Policy:
        """Return the equivalent policy of a store: the preset if there is one, else exactly this chain of codecs."""
        return self.create_tensor_compression().policy

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> CompressionConfig:  # `Any`: checked
        """Return the configuration from a dict of `to_dict`. Missing keys have their defaults.

        Unknown keys are ignored, with a UserWarning that names them.

        Raises:
            ValueError: as for the constructor; or the preset is unknown, or other values differ from the preset's.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = [key for key in config if key not in known]
        if unknown:
            warnings.warn(
                f"a compression configuration has no {', '.join(map(repr, unknown))}, and ignores it; "
                f"it has {', '.join(known)}",
                stacklevel=2,
            )
        values = {key: config[key] for key in known if key != "preset" and config.get(key) is not None}
        if config.get("preset") is None:
            return cls(**values)
        arguments: Mapping[str, Any] = _read_only("quantization_kwargs", values.get("quantization_kwargs"))
        of_preset = _bounded(_of_store(config["preset"]), {key: arguments.get(key) for key in _BOUNDS})
        for key, value in values.items():
            if value != getattr(of_preset, key):
                raise ValueError(f"{key} of preset {of_preset.preset!r} is {getattr(of_preset, key)!r}, not {value!r}")
        return of_preset

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for `from_dict`; `preset` only if there is one. `Any`: text, and dicts of arguments."""
        described = {
            "compression": self.compression,
            "quantization": self.quantization,
            "compression_kwargs": dict(self.compression_kwargs),
            "quantization_kwargs": dict(self.quantization_kwargs),
        }
        return described if self.preset is None else {**described, "preset": self.preset}

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise FrozenInstanceError(
            f"cannot set {name} of a CompressionConfig: it does not change; "
            f"dataclasses.replace(config, {name}=...) makes another one"
        )

    def __delattr__(self, name: str) -> NoReturn:
        raise FrozenInstanceError(f"cannot delete {name} of a CompressionConfig: it does not change")

    def __hash__(self) -> int:
        arguments = (frozenset(self.compression_kwargs.items()), frozenset(self.quantization_kwargs.items()))
        return hash((self.compression, self.quantization, arguments, self.preset))

    def __reduce__(self) -> tuple[Any, ...]:
        # A read-only view of a dict cannot be pickled.
        return CompressionConfig.from_dict, (self.to_dict(),)

    def _algorithms(self) -> tuple[CompressionAlgorithm, QuantizationAlgorithm]:
        return (
            compression_named(self.compression, self.compression_kwargs),
            quantization_named(self.quantization, self.quantization_kwargs),
        )


def get_compression_preset(
    name: str, *, max_relative_error: float | None = None, max_absolute_error: float | None = None
) -> CompressionConfig:
    """Return the preset of this name, optionally with error bounds for every chunk. Without a bound, `auto` is lossless.

    Args:
        name: a name in `COMPRESSION_PRESETS`.
        max_relative_error: limit of L2 norm of the error divided by L2 norm of the values.
        max_absolute_error: limit of the error of every element.

    Raises:
        ValueError: the preset is unknown, a bound is invalid, or the preset does not quantize, so that bounds do not apply.
    """
    config = COMPRESSION_PRESETS.get(name)
    if config is None:
        raise ValueError(f"preset {name!r} is not one of {', '.join(map(str, COMPRESSION_PRESETS))}")
    if not isinstance(config, CompressionConfig):
        raise TypeError(
            f"preset {name!r} in COMPRESSION_PRESETS is a {type(config).__name__}, must be a CompressionConfig"
        )
    return _bounded(config, {"max_relative_error": max_relative_error, "max_absolute_error": max_absolute_error})


def _of_store(name: object) -> CompressionConfig:
    """Return a preset of the store, regardless of users' changes to `COMPRESSION_PRESETS`."""
    config = _OF_STORE.get(name) if isinstance(name, str) else None
    if config is None:
        raise ValueError(f"preset {name!r} is not one of {', '.join(_OF_STORE)}")
    return config


def _bounded(
    config: CompressionConfig, bounds: Mapping[str, Any]
) -> CompressionConfig:  # `Any`: checked by the quantizer
    """Return the configuration with these bounds added; None values are ignored."""
    given = {key: bound for key, bound in bounds.items() if bound is not None}
    if not given:
        return config
    arguments = {**config.quantization_kwargs, **given}
    return _preset(config.preset, config.compression, config.quantization, config.compression_kwargs, arguments)


def _preset(
    name: str | None,
    compression: str,
    quantization: str = "none",
    compression_kwargs: Arguments | None = None,
    quantization_kwargs: Arguments | None = None,
) -> CompressionConfig:
    config = CompressionConfig(compression, quantization, compression_kwargs, quantization_kwargs)
    object.__setattr__(config, "preset", name)
    return config


def _read_only(key: str, arguments: object) -> Arguments:
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, Mapping):
        raise ValueError(f"{key} is {arguments!r}, must be a dict")  # noqa: TRY004 - one kind of error for a configuration
    return MappingProxyType(dict(arguments))


# At the end, since presets are configurations.
_OF_STORE: Mapping[str, CompressionConfig] = MappingProxyType(
    {
        config.preset: config
        for config in (
            _preset("none", "none"),
            _preset("fast", "lz4", compression_kwargs={"compression_level": 1}),
            _preset("balanced", "gzip", "fp16", {"compression_level": 6}),
            _preset("maximum", "gzip", "int8", {"compression_level": 9}),
            _preset("fp16_only", "none", "fp16"),
            _preset("int8_only", "none", "int8"),
            _preset("lossless", "zstd"),
            _preset("archive", "pcodec"),
            _preset("bf16", "zstd", "bf16"),
            _preset("extreme", "zstd", "int4_block"),
            _preset("auto", "zstd", "auto"),
        )
        if config.preset is not None
    }
)
"""Every preset of the store by name."""

COMPRESSION_PRESETS: dict[str, CompressionConfig] = dict(_OF_STORE)
"""Every preset of the store by name; the first six also exist in Tensorus 0.1.

You may add your own configurations: `get_compression_preset` and `TensorStorage(compression_preset=...)` find them in this
process. One with the name of a store's preset replaces it there, but does not change any store.
"""

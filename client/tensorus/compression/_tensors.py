"""Quantizes and compresses whole tensors, as a store does, into self-describing bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tensorus._arrays.canonical import default_kind, from_canonical
from tensorus.compression._chunks import array_and_dtype, dtype_text
from tensorus.compression._compressors import CompressionAlgorithm, NoCompression
from tensorus.compression._container import pack, unpack
from tensorus.compression._errors import CompressionError
from tensorus.compression._factories import is_ours
from tensorus.compression._foreign import Pair, is_foreign, name_of
from tensorus.compression._old import is_old, old_values
from tensorus.compression._policy import chain, plan_of
from tensorus.compression._quantizers import NoQuantization, QuantizationAlgorithm
from tensorus.errors import UnsupportedDTypeError
from tensorus_codecs.presets import PRESETS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Buffer

    from tensorus.types import AsArray, Policy

__all__ = ["TensorCompression"]


class TensorCompression:
    """Compresses tensors with a compressor and a quantizer, and decompresses what any `TensorCompression` compressed.

    A tensor is cut into chunks of 1 MiB, and each becomes a record that names its codecs. The bytes consist of a header with
    dtype and shape, then the records, each preceded by its length and a CRC32C; `_container.py` documents the format. In
    addition to the tensor, compressing needs memory for the result, and decompressing needs memory for the tensor.

    If a chunk cannot be encoded as requested, it is stored losslessly, and `fallback` in the metadata says why: integers,
    bools, and floats that already have as few bits; too many NaN or infinities; an error above the bounds. No chunk grows.

    You can use your own algorithms, subclasses of `CompressionAlgorithm` and `QuantizationAlgorithm`, alone or combined with
    those of this package. Their output can only be read with algorithms of the same names, and the parameters of a quantizer
    are in the metadata; `_foreign.py` documents the format. Such a quantizer gets the whole tensor, and its error is measured.
    A store does not take your own algorithms.
    """

    compression_algorithm: CompressionAlgorithm
    quantization_algorithm: QuantizationAlgorithm
    preset: str | None
    """A preset of the store. Its encodings replace those of the algorithms, which are then only names."""

    def __init__(
        self,
        compression_algorithm: CompressionAlgorithm | None = None,
        quantization_algorithm: QuantizationAlgorithm | None = None,
        *,
        preset: str | None = None,
    ) -> None:
        """Use these algorithms; None: no compression, or no quantization.

        Raises:
            TypeError: an algorithm is not a `CompressionAlgorithm` or `QuantizationAlgorithm`, or is your own in combination
                with a preset.
            ValueError: the preset is unknown.
        """
        self.compression_algorithm = NoCompression() if compression_algorithm is None else compression_algorithm
        self.quantization_algorithm = NoQuantization() if quantization_algorithm is None else quantization_algorithm
        self.preset = preset
        for algorithm, kind in (
            (self.compression_algorithm, CompressionAlgorithm),
            (self.quantization_algorithm, QuantizationAlgorithm),
        ):
            if not isinstance(algorithm, kind):
                raise TypeError(f"a {type(algorithm).__name__} is not a {kind.__name__}")
        if preset is not None and preset not in PRESETS:
            raise ValueError(f"preset {preset!r} is not one of {', '.join(PRESETS)}")
        if self._own is None:
            self.policy  # noqa: B018 - evaluated for its errors

    @property
    def policy(self) -> Policy:
        """The policy with which a store does the same.

        Raises:
            TypeError: an algorithm is your own; the message says what a store takes instead.
        """
        quantization, compression = self.quantization_algorithm.policy, self.compression_algorithm.policy
        return chain(quantization, compression, self.preset)

    def compress_tensor(self, tensor: Any) -> tuple[bytes, dict[str, Any]]:  # `Any`: torch need not be installed
        """Return the compressed tensor, and metadata of plain values.

        Returns:
            The bytes, and a dict:
                compression, quantization   names of the algorithms
                quantization_params         `original_dtype`, such as "torch.float32", and `original_shape`, a list; scales
                                            and other parameters are in the bytes. For your own quantizer: the parameters that
                                            it returned, which `decompress_tensor` needs
                original_size               canonical bytes: dense, without framing
                compressed_size             length of the bytes, including all framing
                compression_ratio           the former divided by the latter; 1.0 if the tensor is empty
                encodings                   encodings of the chunks: a list with `codecs`, `chunks`, `canonical_bytes` and
                                            `stored_bytes`; empty with your own algorithms
                lossy                       whether any value was quantized; with your own quantizer, whether dequantizing
                                            gives other bits or another dtype
                fallback                    why chunks are not encoded as requested; None if all are
                relative_error              L2 norm of the error divided by L2 norm of the tensor, measured
                max_absolute_error          largest error of any element, measured

        Raises:
            CompressionError: Tensorus lacks the dtype, or your own algorithm raised; its exception is the cause.
            ImportError: a library is not installed; the message says how to install it.
            TypeError: `tensor` is not a tensor.
        """
        try:
            array, dtype = array_and_dtype(tensor)
        except UnsupportedDTypeError as error:
            raise CompressionError(str(error), reason=error.reason) from error
        own = self._own
        if own is None:
            compressed, report = pack(array, dtype, plan_of(self.policy, dtype))
            details = report.to_metadata()
        else:
            compressed, details = own.compress(tensor, array)
        metadata = {
            "compression": name_of(self.compression_algorithm),
            "quantization": name_of(self.quantization_algorithm),
            "quantization_params": {"original_dtype": dtype_text(array), "original_shape": list(array.shape)},
            "original_size": array.nbytes,
            "compressed_size": len(compressed),
            "compression_ratio": array.nbytes / len(compressed) if array.nbytes else 1.0,
            **details,
        }
        return compressed, metadata

    def decompress_tensor(
        self,
        compressed_bytes: Buffer,
        metadata: Mapping[str, Any] | None = None,
        *,
        as_: AsArray | None = None,
    ) -> Any:  # torch need not be installed
        """Return a tensor that any `TensorCompression`, or Tensorus 0.1, compressed.

        The tensor may be thousands of times larger than its bytes: as large as their header says. Bytes of 0.1 decompress to at
        most 1 GiB, or to `original_size` of their metadata if that is larger: check it if you do not trust their source.

        Args:
            compressed_bytes: the compressed tensor.
            metadata: the metadata that compressing returned. Required for bytes of 0.1 and of your own quantizer; all others
                describe themselves, and metadata are ignored.
            as_: "torch" or "numpy". None: torch if it is installed, else NumPy; or what your own quantizer returns.

        Raises:
            CompressionError: the bytes are damaged, truncated or of another format (the message names the fault and chunk); the
                library of a codec is not installed; required metadata are missing, or belong to another tensor; the bytes need
                your own algorithms, which this object lacks (the message names both).
        """
        data = memoryview(compressed_bytes).cast("B")
        if is_foreign(data):
            return Pair(self.compression_algorithm, self.quantization_algorithm).decompress(data, metadata, as_)
        array = old_values(data, metadata) if is_old(data) else unpack(data)
        return from_canonical(array, as_ or default_kind())

    @property
    def _own(self) -> Pair | None:
        """The pair of algorithms, if one of them is a user's and there is no preset."""
        compression, quantization = self.compression_algorithm, self.quantization_algorithm
        if self.preset is not None or (is_ours(compression) and is_ours(quantization)):
            return None
        return Pair(compression, quantization)

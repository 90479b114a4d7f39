"""Whole tensors, quantized and compressed as a store does it, into bytes that say what they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tensorus._arrays import default_kind, from_canonical
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
    """Compresses tensors with one compressor over one quantizer, and decompresses whatever any such object compressed.

    A tensor is cut into chunks of 1 MiB, and each becomes a record that names its codecs. The bytes are a header with dtype and
    shape, then the records, each after its length and a CRC32C; `_container.py` draws them byte by byte. Beside the tensor,
    compressing takes the memory of the result, and decompressing that of the tensor.

    A chunk that cannot be as asked is lossless instead, and metadata says why (`fallback`): integers, bools and floats that
    have as few bits already; too many NaN or infinities; an error above the bounds. No chunk is larger than it was.

    Algorithms may be of your own: subclasses of `CompressionAlgorithm` and `QuantizationAlgorithm`, alone or beside one of this
    module. What they make can only be read with algorithms of the same names, and what a quantizer needs for it is in the
    metadata; `_foreign.py` draws the bytes. A tensor is then quantized as a whole, as the quantizer does it alone; what it does
    to the values is measured. A store has no such algorithms.
    """

    compression_algorithm: CompressionAlgorithm
    quantization_algorithm: QuantizationAlgorithm
    preset: str | None
    """A preset of the store, whose encodings are used in place of the algorithms', which then are names only."""

    def __init__(
        self,
        compression_algorithm: CompressionAlgorithm | None = None,
        quantization_algorithm: QuantizationAlgorithm | None = None,
        *,
        preset: str | None = None,
    ) -> None:
        """Take the algorithms; None: none.

        Raises:
            TypeError: one of them is no `CompressionAlgorithm` or `QuantizationAlgorithm`, or is of your own beside a preset.
            ValueError: there is no such preset.
        """
        self.compression_algorithm = NoCompression() if compression_algorithm is None else compression_algorithm
        self.quantization_algorithm = NoQuantization() if quantization_algorithm is None else quantization_algorithm
        self.preset = preset
        for algorithm, kind in (
            (self.compression_algorithm, CompressionAlgorithm),
            (self.quantization_algorithm, QuantizationAlgorithm),
        ):
            if not isinstance(algorithm, kind):
                raise TypeError(f"a {type(algorithm).__name__} is no {kind.__name__}")
        if preset is not None and preset not in PRESETS:
            raise ValueError(f"preset {preset!r} is not one of {', '.join(PRESETS)}")
        if self._own is None:
            self.policy  # noqa: B018 - asked for its errors

    @property
    def policy(self) -> Policy:
        """What a store is asked for to do the same.

        Raises:
            TypeError: an algorithm is of your own; says what a store takes instead.
        """
        quantization, compression = self.quantization_algorithm.policy, self.compression_algorithm.policy
        return chain(quantization, compression, self.preset)

    def compress_tensor(self, tensor: Any) -> tuple[bytes, dict[str, Any]]:  # `Any`: torch need not be installed
        """Return the tensor compressed, and metadata of plain values.

        Returns:
            The bytes, and
                compression, quantization   the algorithms' names
                quantization_params         `original_dtype`, such as "torch.float32", and `original_shape`, a list; scales
                                            and the like are in the bytes. Of a quantizer of your own: the parameters that it
                                            gave, which `decompress_tensor` needs
                original_size               canonical bytes: dense, without framing
                compressed_size             length of the bytes, everything counted
                compression_ratio           the former over the latter; 1.0 where there are no values
                encodings                   what chunks got: lists of `codecs`, `chunks`, `canonical_bytes`, `stored_bytes`;
                                            none with algorithms of your own
                lossy                       whether any value was quantized; with a quantizer of your own, whether dequantizing
                                            gives other bits, or another dtype
                fallback                    why chunks are not as asked; None where all are
                relative_error              L2 norm of the error over L2 norm of the tensor, measured
                max_absolute_error          largest error of an element, measured

        Raises:
            CompressionError: a dtype that Tensorus does not have; whatever an algorithm of your own raises, chained.
            ImportError: a library is not installed; names what brings it.
            TypeError: it is no tensor.
        """
        try:
            array, dtype = array_and_dtype(tensor)
        except UnsupportedDTypeError as error:
            raise CompressionError(str(error), reason=error.reason) from error
        if self._own is None:
            compressed, report = pack(array, dtype, plan_of(self.policy, dtype))
            details = report.to_metadata()
        else:
            compressed, details = self._own.compress(tensor, array)
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
        """Return the tensor that any such object compressed, or Tensorus 0.1.

        Args:
            metadata: what compressing returned beside the bytes. Needed for bytes of 0.1, and of a quantizer of your own; all
                others say everything themselves, and metadata that differ change nothing.
            as_: "torch" or "numpy"; None: torch where it is installed, or what a quantizer of your own gives back.

        Raises:
            CompressionError: damaged, truncated or other bytes, names what and which chunk; a codec whose library is not
                installed; metadata that are needed and missing, or another tensor's; bytes that need algorithms of your own
                which this object does not have, names both.
        """
        data = memoryview(compressed_bytes).cast("B")
        if is_foreign(data):
            return Pair(self.compression_algorithm, self.quantization_algorithm).decompress(data, metadata, as_)
        array = old_values(data, metadata) if is_old(data) else unpack(data)
        return from_canonical(array, as_ or default_kind())

    @property
    def _own(self) -> Pair | None:
        """The algorithms, where one of them is a user's and no preset takes their place."""
        compression, quantization = self.compression_algorithm, self.quantization_algorithm
        if self.preset is not None or (is_ours(compression) and is_ours(quantization)):
            return None
        return Pair(compression, quantization)

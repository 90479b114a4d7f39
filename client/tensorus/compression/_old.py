"""Reads bytes that Tensorus 0.1 compressed: a `torch.save` archive with a tensor or its codes, optionally in gzip or lz4.

`tensorus.old_files` reads them; it runs nothing that is in them and needs no torch. Its `quantizers.py` says where the values
differ from what 0.1 itself returned. The first bytes and the metadata that came with them say what they are, whichever
algorithms are asked to read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from tensorus.compression._errors import CompressionError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tensorus._arrays.canonical import AnyArray

__all__ = ["is_old", "old_values"]

_BEGINNINGS = (b"\x1f\x8b", b"\x04\x22\x4d\x18", b"PK")
"""First bytes of gzip, an lz4 frame and an archive. Bytes of this version begin with "TNS"."""


def is_old(data: memoryview) -> bool:
    """Whether bytes begin like those of 0.1."""
    return bytes(data[:4]).startswith(_BEGINNINGS)


def old_values(data: memoryview, metadata: object) -> AnyArray:
    """Return the tensor.

    Args:
        data: the bytes.
        metadata: the metadata that `compress_tensor` of 0.1 returned with them. `quantization` is required; with a quantizer,
            so is `quantization_params`.

    Raises:
        CompressionError: metadata are missing, or belong to another tensor; the bytes are damaged; lz4 is not installed.
    """
    # Imported late: reading bytes of this version does not need these modules.
    from tensorus.old_files import OldDataError  # noqa: PLC0415
    from tensorus.old_files.compressors import INFLATED_BYTES_MAX  # noqa: PLC0415
    from tensorus.old_files.quantizers import dequantized  # noqa: PLC0415
    from tensorus.old_files.record_values import codes_in  # noqa: PLC0415

    known, compressor, quantizer = _described(metadata)
    params = _params(known, quantizer)
    size = known.get("original_size")
    # Allow the original size even beyond the limit of records, since the tensor once fit into memory.
    bytes_max = max(INFLATED_BYTES_MAX, size) if isinstance(size, int) else INFLATED_BYTES_MAX
    try:
        array = dequantized(codes_in(_blocks(data), compressor, bytes_max), quantizer, params).array
    except ImportError as error:
        raise CompressionError(f"bytes of Tensorus 0.1: {error}", reason="UNSUPPORTED_CODEC") from error
    except OldDataError as error:
        raise CompressionError(f"bytes of Tensorus 0.1: {error}", reason="DATA_CORRUPT") from error
    for key, found in (("original_dtype", f"torch.{array.dtype.name}"), ("original_shape", list(array.shape))):
        said = params.get(key, found)
        if (list(said) if isinstance(said, tuple) else said) != found:
            raise _wrong(f"quantization_params[{key!r}] is {said!r}, and the bytes hold {found!r}")
    return array


def _described(metadata: object) -> tuple[Mapping[str, object], str | None, str]:
    """Return the metadata, the name of the compressor (or None), and the name of the quantizer."""
    if not isinstance(metadata, Mapping):
        raise _wrong(f"it is a {type(metadata).__name__}, must be the dict that came with the bytes")
    compressor, quantizer = metadata.get("compression"), metadata.get("quantization")
    if not isinstance(compressor, (str, type(None))) or not isinstance(quantizer, str):
        raise _wrong(f"compression is {compressor!r} and quantization is {quantizer!r}, must be names")
    return metadata, compressor, quantizer


def _params(metadata: Mapping[str, object], quantizer: str) -> Mapping[str, object]:
    params = metadata.get("quantization_params", {})
    if not isinstance(params, Mapping):
        raise _wrong(f"quantization_params are a {type(params).__name__}, must be a dict")
    if quantizer != "none" and "original_dtype" not in params:
        raise _wrong(f"quantization is {quantizer!r}, and quantization_params have no original_dtype")
    return params


def _blocks(data: memoryview) -> Iterator[bytes]:
    from tensorus.old_files.pt_container import BLOCK_BYTES  # noqa: PLC0415

    for start in range(0, data.nbytes, BLOCK_BYTES):
        yield bytes(data[start : start + BLOCK_BYTES])


def _wrong(what: str) -> CompressionError:
    return CompressionError(f"metadata of bytes of Tensorus 0.1: {what}", reason="INVALID_REQUEST")

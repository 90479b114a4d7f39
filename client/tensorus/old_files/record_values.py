"""Makes a record's values of what lies in a dataset's list of tensors: a tensor, or the bytes of a compressed one.

A compressed record is a container of torch with one tensor, through a compressor, as text in the dataset's pickle: a code point
per byte. It is read block by block from the file into the decompressor, so that a record's text is never in memory.

Memory of a compressed record: the container that comes out, at most `INFLATED_BYTES_MAX`; beside it, the tensor of codes; and
in place of the container, then, the values. Of any other record: as `read_tensor`.
"""

from __future__ import annotations

import codecs
import io
from dataclasses import replace
from typing import TYPE_CHECKING

from tensorus.old_files.compressors import INFLATED_BYTES_MAX, inflated
from tensorus.old_files.errors import OldDataError, OldRecordError
from tensorus.old_files.pt_container import PtContainer
from tensorus.old_files.pt_pickle import PICKLE, read_pickle
from tensorus.old_files.pt_tensors import read_tensor
from tensorus.old_files.pt_values import LongText, PickledBytes, PickledTensor, kind_of
from tensorus.old_files.quantizers import Restored, dequantized

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tensorus.old_files.pt_tensors import Array
    from tensorus.old_files.pt_values import PickledText

__all__ = ["codes_in", "read_text", "restored"]


def restored(
    container: PtContainer, item: object, codec: object, *, inflated_bytes_max: int = INFLATED_BYTES_MAX
) -> Restored:
    """Return the values of one item of a dataset's `tensors`.

    Args:
        container: the dataset's.
        codec: the record's `compression_metadata`, as far as there is any.
        inflated_bytes_max: what a compressed record's container may have.

    Raises:
        OldDataError: it is no tensor, is damaged, or lost.
        ImportError: see `inflated`.
    """
    if isinstance(item, PickledTensor):
        return Restored(read_tensor(container, item))
    if not isinstance(item, PickledBytes):
        raise OldRecordError(f"its tensor is a {kind_of(item)}, which is not loaded")
    known = codec if isinstance(codec, dict) else {}
    codes = codes_in(_latin1_blocks(container, item.text), _name(known, "compression"), inflated_bytes_max)
    quantizer = _name(known, "quantization")
    if quantizer is None:
        return _without_quantizer(codes)
    parameters = known.get("quantization_params")
    return dequantized(codes, quantizer, parameters if isinstance(parameters, dict) else {})


def read_text(container: PtContainer, text: PickledText) -> str:
    """Return a text of the pickle; the whole of it in memory.

    Raises:
        OldDataError: it is no UTF-8, or cannot be read.
    """
    if isinstance(text, str):
        return text
    try:
        return b"".join(container.blocks(PICKLE, text.offset, text.length)).decode()
    except UnicodeDecodeError as error:
        raise OldRecordError(f"a text is no UTF-8: {error.reason} at byte {error.start} of it") from error


def codes_in(blocks: Iterator[bytes], compressor: str | None, bytes_max: int) -> Array:
    """Return the one tensor in a compressed record.

    Args:
        blocks: the record.
        compressor: its name; None: what the first bytes say.
        bytes_max: what comes out of the compressor, at most.

    Raises:
        OldRecordError: it is damaged, holds something else, or is another compressor's.
        ImportError: see `inflated`.
    """
    file = io.BytesIO()
    for piece in inflated(blocks, compressor, bytes_max):
        file.write(piece)
    try:
        container = PtContainer(file)
        tensor = read_pickle(container)
        if not isinstance(tensor, PickledTensor):
            raise OldRecordError(f"it holds a {kind_of(tensor)}, must hold a tensor")
        return read_tensor(container, tensor)
    except OldDataError as error:
        raise OldRecordError(f"its inner container: {error}") from error


def _without_quantizer(codes: Array) -> Restored:
    """Return what is left of a record whose codec's description an update of its metadata removed."""
    # The quantizer refused tensors without values, so that these were of int8 before.
    if codes.dtype.name == "int8" and codes.size:
        raise OldRecordError("an update of its metadata removed the scale of its int8 codes: its values are lost")
    if codes.dtype.name == "float16":
        return dequantized(codes, "fp16", {})
    reason = "an update of its metadata removed how it was compressed, so that it was read back as bytes"
    return replace(Restored(codes), worth="repaired", reason=reason)


def _name(codec: dict[object, object], key: str) -> str | None:
    """Return a codec's name; None where there is none.

    Raises:
        OldRecordError: it is no text.
    """
    name = codec.get(key)
    if name is not None and not isinstance(name, str):
        raise OldRecordError(f"its {key} is a {kind_of(name)}, must be a str")
    return name


def _latin1_blocks(container: PtContainer, text: PickledText) -> Iterator[bytes]:
    """Yield the bytes that the code points of a text are."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        if isinstance(text, LongText):
            for block in container.blocks(PICKLE, text.offset, text.length):
                yield decoder.decode(block).encode("latin-1")
            # Refuses half a character at the end.
            decoder.decode(b"", final=True)
        else:
            yield text.encode("latin-1")
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise OldRecordError(f"its bytes are no text of one byte per character: {error.reason}") from error

"""Files of tensors that are written: .safetensors, .npz, .npy and torch's .pt, each tensor as it arrives.

A file appears under its name when all of it is written; until then it stands beside it. Of .safetensors, .npz and .npy only one
tensor is in memory at a time. A .pt file is put together in memory, all of it: its format demands that.
"""

from __future__ import annotations

import os
import shutil
import zipfile
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tensorus._arrays import dtype_name, from_canonical
from tensorus.cli._checkpoint import MANIFEST_ID, assembled
from tensorus.cli._safetensors import DTYPE_NAMES, METADATA_KEY, header_of, writing_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import BinaryIO, TypeAlias

    from tensorus._arrays import AnyArray

    Write: TypeAlias = Callable[[str, AnyArray], None]
    """Takes the name of a tensor and the tensor."""

__all__ = ["WRITABLE", "Expected", "in_writing_order", "require_writable", "write_checkpoint", "writing"]

WRITABLE = (".safetensors", ".npz", ".npy", ".pt")


class Expected(NamedTuple):
    """A tensor that will be written."""

    name: str
    dtype: str
    shape: tuple[int, ...]


def require_writable(path: Path, dtypes: Mapping[str, str]) -> None:
    """Refuse tensors that the format of the file cannot hold.

    Args:
        path: the file that will be written.
        dtypes: the names of the tensors' dtypes, by id.

    Raises:
        ValueError: a format that is not one of `WRITABLE`, a dtype or a name that it lacks, or not just one tensor for .npy.
    """
    suffix = path.suffix.lower()
    if suffix not in WRITABLE:
        raise ValueError(f"{path} is of no known format; {', '.join(WRITABLE)} can be written")
    if suffix == ".npy" and len(dtypes) != 1:
        raise ValueError(f"{path} can hold one tensor, not {len(dtypes)}; .npz and .safetensors hold many")
    if suffix == ".safetensors" and METADATA_KEY in dtypes:
        raise ValueError(f"{path} cannot hold a tensor of the name {METADATA_KEY!r}; an .npz file can")
    for name, dtype in dtypes.items():
        if suffix == ".safetensors" and dtype not in DTYPE_NAMES:
            raise ValueError(f"{path} cannot hold {dtype}, the dtype of tensor {name!r}; an .npz file can")
        if suffix in {".npy", ".npz"} and dtype.startswith(("bfloat", "float8")):
            raise ValueError(f"{path} cannot hold {dtype}, the dtype of tensor {name!r}; a .safetensors file can")


def in_writing_order(path: Path, dtypes: Mapping[str, str]) -> list[str]:
    """Return the names of tensors in the order in which `writing` takes them. Arguments as of `require_writable`."""
    return writing_order(dtypes) if path.suffix.lower() == ".safetensors" else list(dtypes)


@contextmanager
def writing(path: Path, expected: Sequence[Expected], metadata: Mapping[str, str]) -> Iterator[Write]:
    """Lend a function that writes one tensor after the other to a file, which replaces what is there at the end.

    Args:
        path: the file; its name says the format, which `require_writable` has accepted for these tensors.
        expected: the tensors, in the order of `in_writing_order`.
        metadata: of the header of a .safetensors file; the other formats have none.

    Raises:
        ValueError: another tensor is written than was expected.
    """
    with _replacing(path) as file, _writer(path, file, expected, metadata) as write:
        left = iter(expected)

        def checked(name: str, array: AnyArray) -> None:
            found = Expected(name, dtype_name(array), array.shape)
            if found != next(left, None):
                raise ValueError(f"tensor {name!r} was replaced by one of another dtype or shape while it was read")
            write(name, array)

        yield checked
        if (missing := next(left, None)) is not None:
            raise ValueError(f"tensor {missing.name!r} did not arrive")


@contextmanager
def _writer(path: Path, file: BinaryIO, expected: Sequence[Expected], metadata: Mapping[str, str]) -> Iterator[Write]:
    """Lend what writes one tensor after the other in the format of the file."""
    suffix = path.suffix.lower()
    if suffix == ".npz":
        # Not `np.savez`, whose own arguments are names that a tensor cannot have, and which takes all at once.
        with zipfile.ZipFile(file, "w") as archive:

            def write_member(name: str, array: AnyArray) -> None:
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)

            yield write_member
    elif suffix == ".safetensors":
        file.write(header_of(expected, metadata))
        yield lambda _, array: _write_values(file, array)
    else:
        yield lambda _, array: np.save(file, array, allow_pickle=False)


def _write_values(file: BinaryIO, array: AnyArray) -> None:
    # Not `np.ascontiguousarray`, which makes a vector of a scalar.
    file.write(np.asarray(array, order="C").reshape(-1).view(np.uint8).data)


def write_checkpoint(path: Path, tensors: dict[str, AnyArray], manifest_id: str | None) -> None:
    """Write tensors to a .pt file: a dict of them by name, or the checkpoint that the manifest among them describes.

    Args:
        tensors: by id.
        manifest_id: of the manifest; the ids in it have what stands before its own, too.
    """
    import torch  # noqa: PLC0415 - takes a second to import, and only this format needs it

    if manifest_id is None:
        checkpoint = {name: from_canonical(array, "torch") for name, array in tensors.items()}
    else:
        prefix = manifest_id.removesuffix(MANIFEST_ID)
        manifest = tensors.pop(manifest_id).tobytes()
        checkpoint = assembled(manifest, {name.removeprefix(prefix): array for name, array in tensors.items()})
    with _replacing(path) as file:
        torch.save(checkpoint, file)


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """Lend a new file that gets the name `path` once all of it is written, and vanishes where that fails."""
    target = path.resolve()
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            yield file
        if target.exists():
            shutil.copymode(target, partial)
        partial.replace(target)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise

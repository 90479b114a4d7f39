"""Writing tensor files: .safetensors, .npz, .npy and torch's .pt.

A file is written under a temporary name beside its target, and renamed when it is complete. For .safetensors, .npz and .npy,
tensors are written as they arrive, with one in memory at a time. The format of .pt files requires the whole file in memory.
"""

from __future__ import annotations

import os
import shutil
import zipfile
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tensorus._arrays.canonical import dtype_name, from_canonical
from tensorus.cli._checkpoint import MANIFEST_ID, assembled
from tensorus.cli._safetensors import DTYPE_NAMES, METADATA_KEY, header_of, writing_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import BinaryIO, TypeAlias

    from tensorus._arrays.canonical import AnyArray

    Write: TypeAlias = Callable[[str, AnyArray], None]
    """Called with the name of a tensor and the tensor."""

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
        dtypes: names of the tensors' dtypes, by id.

    Raises:
        ValueError: the format is not one of `WRITABLE`, lacks a dtype or name, or is .npy without exactly one tensor.
    """
    suffix = path.suffix.lower()
    if suffix not in WRITABLE:
        raise ValueError(f"{path} has an unknown format; {', '.join(WRITABLE)} can be written")
    if suffix == ".npy" and len(dtypes) != 1:
        raise ValueError(f"{path} can hold one tensor, not {len(dtypes)}; .npz and .safetensors hold many")
    if suffix == ".safetensors" and METADATA_KEY in dtypes:
        raise ValueError(f"{path} cannot hold a tensor named {METADATA_KEY!r}; an .npz file can")
    for name, dtype in dtypes.items():
        if suffix == ".safetensors" and dtype not in DTYPE_NAMES:
            raise ValueError(f"{path} cannot hold {dtype}, the dtype of tensor {name!r}; an .npz file can")
        if suffix in {".npy", ".npz"} and dtype.startswith(("bfloat", "float8")):
            raise ValueError(f"{path} cannot hold {dtype}, the dtype of tensor {name!r}; a .safetensors file can")


def in_writing_order(path: Path, dtypes: Mapping[str, str]) -> list[str]:
    """Return the names of tensors in the order in which `writing` expects them. Arguments as for `require_writable`."""
    return writing_order(dtypes) if path.suffix.lower() == ".safetensors" else list(dtypes)


@contextmanager
def writing(path: Path, expected: Sequence[Expected], metadata: Mapping[str, str]) -> Iterator[Write]:
    """Yield a function that writes tensors to a file one by one. The file replaces an existing one at the end.

    Args:
        path: the file. Its extension sets the format, which `require_writable` has accepted for these tensors.
        expected: the tensors, in the order of `in_writing_order`.
        metadata: for the header of a .safetensors file; unused in other formats.

    Raises:
        ValueError: a tensor differs from the expected one, or is missing.
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
    """Yield a function that writes tensors one by one in the format of the file."""
    suffix = path.suffix.lower()
    if suffix == ".npz":
        # Not `np.savez`: it takes all tensors at once, and its own arguments are names that a tensor could not have.
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
    # Not `np.ascontiguousarray`, which turns a scalar into a vector.
    file.write(np.asarray(array, order="C").reshape(-1).view(np.uint8).data)


def write_checkpoint(path: Path, tensors: dict[str, AnyArray], manifest_id: str | None) -> None:
    """Write tensors to a .pt file: a dict of tensors by name, or the checkpoint that a manifest among them describes.

    Args:
        path: the file.
        tensors: tensors by id.
        manifest_id: id of the manifest, or None. Its prefix, if any, is the prefix of all ids that the manifest names.
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
    """Yield a temporary file that is renamed to `path` on success, and removed on failure."""
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

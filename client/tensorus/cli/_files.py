"""Reading tensor files: .safetensors, .npy and .npz, and torch's .pt, .pth, .ckpt and .bin if torch is installed.

Files are memory-mapped if the format allows it, so that a tensor need not fit into memory to be sent. Everything in a file
except the values is checked before the first tensor is sent, so that a file that cannot be stored changes nothing.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorus._arrays.canonical import as_numpy
from tensorus.cli._checkpoint import MANIFEST_ID, LeftOut, TakenApart
from tensorus.cli._safetensors import read_safetensors
from tensorus.errors import TensorusError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tensorus._arrays.canonical import AnyArray

__all__ = ["HEADER_KEY", "READABLE", "FileTensor", "TensorFile", "expanded", "open_file", "read_tensors"]

_TORCH = (".pt", ".pth", ".ckpt", ".bin")

READABLE = (".safetensors", ".npy", ".npz", *_TORCH)

HEADER_KEY = "safetensors_metadata"
"""Metadata key under which the first tensor of a .safetensors file keeps the file's own metadata."""

_HEADER_TEXT_BYTES_MAX = 32 * 1024
"""Maximum size of a file's own metadata as JSON; all metadata of a tensor may have 64 KiB."""

_INDEX_SUFFIX = ".index.json"


@dataclass(frozen=True)
class FileTensor:
    """A tensor in a file."""

    name: str
    load: Callable[[], Any]
    """Returns the tensor: a view of the mapped file, or read from the file when called."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Metadata from the file."""


@dataclass(frozen=True)
class TensorFile:
    """The contents of a file."""

    tensors: Sequence[FileTensor]
    left_out: Sequence[str] = ()
    """Names of objects that cannot be stored."""
    notes: Sequence[str] = ()
    """Notices for the user."""


def expanded(paths: Sequence[Path]) -> list[Path]:
    """Replace folders and indexes of shards by the files they contain or list.

    Raises:
        ValueError: a folder has no tensor files, or an index does not parse; the message names it.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += _in_folder(path)
        elif path.name.endswith(_INDEX_SUFFIX):
            found += _in_index(path)
        else:
            found.append(path)
    return found


def _in_folder(folder: Path) -> list[Path]:
    """Return a folder's files of one format, since a model's folder often has the same tensors in several formats."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    for suffix in READABLE:
        if found := [path for path in files if path.suffix.lower() == suffix]:
            return found
    raise ValueError(f"{folder} has no tensor files; {', '.join(READABLE)} can be read")


def _in_index(path: Path) -> list[Path]:
    """Return the shards that a Hugging Face index names; they are in the same folder."""
    try:
        names = sorted({str(name) for name in json.loads(path.read_bytes())["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not an index of shards: it has no weight_map") from error
    if outside := [name for name in names if Path(name).name != name]:
        raise ValueError(f"{path} names {outside[0]!r}, which is not a file in the same folder")
    return [path.parent / name for name in names]


def read_tensors(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield names and tensors of a file one at a time, and skip everything else. Errors as for `open_file`."""
    for tensor in open_file(path).tensors:
        if tensor.name != MANIFEST_ID:
            yield tensor.name, tensor.load()


def open_file(path: Path) -> TensorFile:
    """Return the contents of a file, after checking that they can be stored.

    Raises:
        ValueError: the format is not one of `READABLE`, or the file is broken; the message names the file.
        ImportError: it is a torch file, and torch is not installed.
    """
    readers = {".safetensors": _open_safetensors, ".npy": _open_npy, ".npz": _open_npz} | dict.fromkeys(
        _TORCH, _open_pt
    )
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{path} has an unknown format; {', '.join(READABLE)} can be read")
    try:
        return reader(path)
    except ImportError:
        raise
    except Exception as error:
        # The parsers of NumPy and torch raise many undocumented exceptions for broken files.
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} cannot be read: {_first_sentence(error)}")


def _first_sentence(error: Exception) -> str:
    """Return the first sentence of a message; libraries often append paragraphs about their own options."""
    if isinstance(error, pickle.UnpicklingError):
        # Torch's message recommends weights_only=False, which would run code from the file.
        return "it is broken, or holds objects other than tensors; they are not loaded, since that could run code"
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return text.splitlines()[0].partition(". ")[0].rstrip(".")


def _require_storable(name: str, tensor: Any) -> None:
    """Raise `ValueError` for a tensor that cannot be stored: now, when the file is known, rather than when it is sent."""
    try:
        as_numpy(tensor)
    except (TensorusError, TypeError, ValueError) as error:
        raise ValueError(f"tensor {name!r} cannot be stored: {error}") from error


def _tensors(named: Mapping[str, Any]) -> list[FileTensor]:
    for name, tensor in named.items():
        _require_storable(name, tensor)
    return [FileTensor(name, partial(_itself, tensor)) for name, tensor in named.items()]


def _itself(tensor: Any) -> Any:
    return tensor


def _open_npy(path: Path) -> TensorFile:
    # Not `np.load`, which takes any other file for a pickle, and recommends allow_pickle=True.
    return TensorFile(_tensors({path.stem: np.lib.format.open_memmap(path, mode="r")}))


def _open_npz(path: Path) -> TensorFile:
    # Keep it open as long as its tensors may be loaded; reopening it would read its directory each time.
    archive = zipfile.ZipFile(path)
    found = []
    for member in archive.namelist():
        name = member.removesuffix(".npy")
        with archive.open(member) as file:
            _require_storable(name, np.empty(0, _npy_dtype(file)))
        found.append(FileTensor(name, partial(_load_member, path, archive, member)))
    return TensorFile(found)


def _npy_dtype(file: Any) -> np.dtype[Any]:
    """Return the dtype in the header of a .npy file."""
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    _, _, dtype = read_header(file)
    if dtype.hasobject:
        raise ValueError("it holds objects; they are not loaded, since that could run code")
    return dtype


def _load_member(path: Path, archive: zipfile.ZipFile, member: str) -> AnyArray:
    try:
        with archive.open(member) as file:
            array: AnyArray = np.lib.format.read_array(file, allow_pickle=False)
    except Exception as error:
        raise _unreadable(path, error) from error
    return array


def _open_safetensors(path: Path) -> TensorFile:
    named, header = read_safetensors(path)
    tensors = _tensors(dict(named))
    if not header:
        return TensorFile(tensors)
    if not tensors or len(json.dumps(header)) > _HEADER_TEXT_BYTES_MAX:
        return TensorFile(tensors, left_out=["the metadata of its header, which are too long for tensor metadata"])
    first = FileTensor(tensors[0].name, tensors[0].load, {HEADER_KEY: header})
    return TensorFile([first, *tensors[1:]])


def _open_pt(path: Path) -> TensorFile:
    parts = TakenApart(_load_pt(path), path.name, path.stem)
    tensors = _tensors(parts.tensors)
    notes = []
    if parts.manifest is not None:
        manifest = np.frombuffer(parts.manifest, np.uint8)
        tensors.append(FileTensor(MANIFEST_ID, partial(_itself, manifest)))
    elif parts.shared:
        name, first = parts.shared[0]
        notes.append(
            f"{path}: {len(parts.shared)} of its tensors share memory with another, such as {name!r} with {first!r}; "
            "each is stored separately"
        )
    return TensorFile(tensors, parts.left_out, notes)


def _load_pt(path: Path) -> Any:
    """Return the contents of a torch file. No code in it runs: objects of classes other than torch's become `LeftOut`."""
    try:
        import torch  # noqa: PLC0415 - takes a second to import, and only this format needs it
    except ImportError as error:
        raise ImportError(
            f"reading a {path.suffix} file needs torch: pip install 'tensorus[torch]'", name="torch"
        ) from error
    # Files of torch before 1.6 are not archives; they cannot be mapped, and their classes cannot be listed.
    is_archive = zipfile.is_zipfile(path)
    list_classes = getattr(torch.serialization, "get_unsafe_globals_in_checkpoint", None)
    names = list_classes(path) if is_archive and list_classes is not None else []
    stand_ins: list[Any] = [(type("LeftOut", (LeftOut,), {"name": name}), name) for name in names]
    try:
        with torch.serialization.safe_globals(stand_ins) if stand_ins else nullcontext():
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    except pickle.UnpicklingError as error:
        if not names:
            raise
        # Torch does not fill dicts and lists of foreign classes, and allows no stand-ins for some modules.
        raise ValueError(
            f"objects in it ({', '.join(sorted(names))}) are not loaded, since that could run code"
        ) from error

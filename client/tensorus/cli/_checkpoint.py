"""Splits torch checkpoints (.pt) into tensors, and reassembles them.

A checkpoint consists of nested containers with tensors and other training state, such as an epoch or a learning rate. Each
tensor is stored under its path. For a state dict, which is a dict of tensors by name, this is sufficient. For any other
checkpoint, the rest is stored as one more tensor, the manifest: a JSON document as uint8 with the id "@manifest".

    {"tensorus_manifest": 1, "file": NAME, "root": NODE}

NODE is null, a bool, an integer, a finite float, a string, a list of NODEs, or an object with a "kind":

    dict, ordered_dict             items: [[NODE, NODE], ...]; attributes of an ordered_dict, a dict NODE, if it has any
    tuple, set, size               items: [NODE, ...]
    tensor, parameter              id; requires_grad if not the default; same_as, the id of a tensor that shares its memory
    float                          value: "nan", "inf" or "-inf"
    complex                        value: [NODE, NODE]
    bytes, bytearray               value: in base64
    dtype, device                  value: torch's name
    numpy                          a NumPy scalar: dtype, value in base64, little-endian

Ids in the manifest are those in the file. In the dataset, they have the same prefix as the id of the manifest.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorus._arrays.canonical import from_canonical

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tensorus._arrays.canonical import AnyArray

__all__ = ["MANIFEST_ID", "LeftOut", "TakenApart", "assembled", "ids_in"]

MANIFEST_ID = "@manifest"

_VERSION = 1


class LeftOut:
    """Stands for an object of a class that must not be loaded, since that could run code. Keeps the pickled arguments."""

    name = ""
    """Name of the class, or of the function that would create the object."""
    arguments: tuple[Any, ...] = ()
    state: Any = None

    def __new__(cls, *_: object, **__: object) -> LeftOut:  # noqa: PYI034 - of a subclass that nobody names
        """Accept any arguments."""
        return super().__new__(cls)

    def __init__(self, *arguments: object, **_: object) -> None:
        """Keep the arguments."""
        self.arguments = arguments

    def __setstate__(self, state: object) -> None:
        """Keep the state."""
        self.state = state


_NUMPY_SCALARS = frozenset({"numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"})

_NUMPY_DTYPE = re.compile(r"b1|[iufc]\d{1,2}")
"""Spelling of NumPy's numeric dtypes in a pickle."""


def _numpy_scalar(value: Any) -> np.generic | None:
    """Return the NumPy scalar that a `LeftOut` stands for, such as a mean loss; None for everything else."""
    if not isinstance(value, LeftOut) or value.name not in _NUMPY_SCALARS:
        return None
    match value.arguments:
        case (LeftOut(name="numpy.dtype", arguments=(str(spelled), *_), state=(_, "<" | "|", *_)), bytes(raw)):
            if _NUMPY_DTYPE.fullmatch(spelled) and len(raw) == np.dtype(spelled).itemsize:
                found: np.generic = np.frombuffer(raw, np.dtype(spelled))[0]
                return found
    return None


class TakenApart:
    """A checkpoint split into tensors and a manifest."""

    def __init__(self, root: Any, file: str, stem: str) -> None:
        """Split the result of `torch.load`.

        Args:
            root: the loaded object.
            file: name of the file, for the manifest.
            stem: id to use if the checkpoint is a single tensor.
        """
        import torch  # noqa: PLC0415 - takes a second to import, and only this format needs it

        self._torch = torch
        self._stem = stem
        self.tensors: dict[str, Any] = {}
        """By id."""
        self.left_out: list[str] = []
        """Path and class of each object that cannot be stored."""
        self.shared: list[tuple[str, str]] = []
        """Pairs of ids of tensors that share memory."""
        self._first_of: dict[tuple[Any, ...], str] = {}
        node = self._node(root, [])
        self.manifest: bytes | None = None
        """None for a state dict, which consists of its tensors."""
        if not self._is_state_dict(root):
            document = {"tensorus_manifest": _VERSION, "file": file, "root": node}
            self.manifest = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()

    def _is_state_dict(self, root: Any) -> bool:
        return (
            type(root) in {dict, OrderedDict}
            and list(root) == list(self.tensors)
            and all(type(item) is self._torch.Tensor and not item.requires_grad for item in root.values())
        )

    def _node(self, value: Any, path: list[str]) -> Any:
        """Return the NODE of a value; None for objects that cannot be stored."""
        kind = type(value)
        if value is None or kind in {bool, int, str}:
            return value
        if kind is list:
            return self._nodes(value, path)
        if kind in {dict, OrderedDict}:
            return self._dict(value, path)
        if kind in {self._torch.Tensor, self._torch.nn.Parameter}:
            return self._tensor(value, path)
        if kind in {tuple, set, self._torch.Size}:
            return {"kind": kind.__name__.lower(), "items": self._nodes(value, path)}
        return self._scalar(value, path)

    def _scalar(self, value: Any, path: list[str]) -> Any:
        kind = type(value)
        if kind is float:
            return value if math.isfinite(value) else {"kind": "float", "value": str(value)}
        if kind is complex:
            return {"kind": "complex", "value": self._nodes([value.real, value.imag], path)}
        if kind in {bytes, bytearray}:
            return {"kind": kind.__name__, "value": base64.b64encode(value).decode()}
        if kind in {self._torch.dtype, self._torch.device}:
            return {"kind": kind.__name__, "value": str(value).removeprefix("torch.")}
        number = _numpy_scalar(value)
        if number is not None:
            return {"kind": "numpy", "dtype": number.dtype.name, "value": base64.b64encode(number.tobytes()).decode()}
        self._leave_out(value, path)
        return None

    def _nodes(self, values: Any, path: list[str]) -> list[Any]:
        return [self._node(item, [*path, str(number)]) for number, item in enumerate(values)]

    def _dict(self, value: dict[Any, Any], path: list[str]) -> dict[str, Any]:
        items = []
        for key, item in value.items():
            place = [*path, str(key)]
            left_out = isinstance(item, LeftOut) and _numpy_scalar(item) is None
            if left_out or isinstance(key, (LeftOut, self._torch.Tensor)):
                self._leave_out(item if left_out else key, place)
            else:
                items.append([self._node(key, place), self._node(item, place)])
        node: dict[str, Any] = {"kind": "dict", "items": items}
        if type(value) is OrderedDict:
            node["kind"] = "ordered_dict"
            # A state dict keeps the versions of its modules in its attributes.
            if attributes := vars(value):
                node["attributes"] = self._node(attributes, path)
        return node

    def _leave_out(self, value: Any, path: list[str]) -> None:
        kind = value.name if isinstance(value, LeftOut) else f"{type(value).__module__}.{type(value).__qualname__}"
        self.left_out.append(f"{'.'.join(path) or 'all of it'!r} ({kind})")

    def _tensor(self, value: Any, path: list[str]) -> dict[str, Any]:
        wanted = tensor_id = ".".join(path) or self._stem
        number = 1
        while tensor_id in self.tensors or tensor_id == MANIFEST_ID:
            number += 1
            tensor_id = f"{wanted}#{number}"
        self.tensors[tensor_id] = value
        is_parameter = type(value) is not self._torch.Tensor
        node: dict[str, Any] = {"kind": "parameter" if is_parameter else "tensor", "id": tensor_id}
        if value.requires_grad != is_parameter:
            node["requires_grad"] = value.requires_grad
        if value.layout is self._torch.strided and value.numel():
            memory = (value.data_ptr(), value.dtype, value.shape, value.stride(), is_parameter)
            first = self._first_of.setdefault(memory, tensor_id)
            if first != tensor_id:
                node["same_as"] = first
                self.shared.append((tensor_id, first))
        return node


def ids_in(manifest: bytes) -> dict[str, str]:
    """Return the ids of the tensors that a manifest names, each with the id whose memory it shares, usually its own.

    Raises:
        ValueError: this version cannot read the manifest.
    """
    found: dict[str, str] = {}

    def collect(node: Any) -> None:
        if isinstance(node, list):
            for item in node:
                collect(item)
        elif isinstance(node, dict):
            if node["kind"] in {"tensor", "parameter"}:
                tensor_id: str = node["id"]
                found[tensor_id] = node.get("same_as", tensor_id)
            collect(node.get("items"))
            collect(node.get("attributes"))

    try:
        collect(_root(manifest))
    except (KeyError, TypeError, RecursionError) as error:
        raise _damaged() from error
    return found


def assembled(manifest: bytes, tensors: Mapping[str, AnyArray]) -> Any:
    """Return the checkpoint that a manifest describes.

    Args:
        manifest: the JSON document.
        tensors: the tensors that it names, by their ids in it.

    Raises:
        ValueError: this version cannot read the manifest.
    """
    try:
        return _Assembly(tensors).value(_root(manifest))
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise _damaged() from error


def _root(manifest: bytes) -> Any:
    try:
        document = json.loads(manifest)
    except (ValueError, RecursionError) as error:
        raise _damaged() from error
    if not isinstance(document, dict) or document.get("tensorus_manifest") != _VERSION:
        raise ValueError(
            f"the checkpoint's manifest has an unknown version; this version of Tensorus reads version {_VERSION}"
        )
    return document["root"]


def _damaged() -> ValueError:
    return ValueError("the checkpoint's manifest does not parse")


class _Assembly:
    """Reassembles a checkpoint."""

    def __init__(self, tensors: Mapping[str, AnyArray]) -> None:
        import torch  # noqa: PLC0415 - takes a second to import, and only this format needs it

        self._torch = torch
        self._arrays = tensors
        self._made: dict[str, Any] = {}

    def value(self, node: Any) -> Any:
        if isinstance(node, list):
            return [self.value(item) for item in node]
        if not isinstance(node, dict):
            return node
        kind = node["kind"]
        if kind in {"tensor", "parameter"}:
            return self._tensor(node)
        if kind in {"dict", "ordered_dict"}:
            return self._dict(node)
        if kind in {"tuple", "set", "size"}:
            return {"tuple": tuple, "set": set, "size": self._torch.Size}[kind](map(self.value, node["items"]))
        if kind == "numpy":
            return np.frombuffer(base64.b64decode(node["value"]), np.dtype(node["dtype"]))[0]
        return self._scalar(kind, node["value"])

    def _scalar(self, kind: str, value: Any) -> Any:
        if kind == "complex":
            return complex(*map(self.value, value))
        if kind in {"bytes", "bytearray"}:
            raw = base64.b64decode(value)
            return raw if kind == "bytes" else bytearray(raw)
        if kind == "dtype":
            found = getattr(self._torch, value)
            if not isinstance(found, self._torch.dtype):
                raise TypeError(value)
            return found
        return {"float": float, "device": self._torch.device}[kind](value)

    def _dict(self, node: dict[str, Any]) -> dict[Any, Any]:
        made: dict[Any, Any] = {} if node["kind"] == "dict" else OrderedDict()
        for key, item in node["items"]:
            made[self.value(key)] = self.value(item)
        if "attributes" in node:
            vars(made).update(self.value(node["attributes"]))
        return made

    def _tensor(self, node: dict[str, Any]) -> Any:
        tensor_id = node["id"]
        if "same_as" in node:
            return self._made[node["same_as"]]
        is_parameter = node["kind"] == "parameter"
        tensor = from_canonical(self._arrays[tensor_id], "torch")
        requires_grad = node.get("requires_grad", is_parameter)
        if is_parameter:
            tensor = self._torch.nn.Parameter(tensor, requires_grad=requires_grad)
        elif requires_grad:
            tensor.requires_grad_()
        self._made[tensor_id] = tensor
        return tensor

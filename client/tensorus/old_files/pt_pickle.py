"""Reads the pickle in a container of torch without running any of it: a stack machine for the opcodes that torch.save writes.

Nothing is imported, called or built but plain values and the descriptions of `pt_values`. What a pickle may name:

    torch._utils._rebuild_tensor_v2, _v3     a tensor; _v3 has the dtype as its seventh argument
    torch.<kind>Storage, and BINPERSID       a storage
    collections.OrderedDict, torch.Size      a dict, a tuple
    _codecs.encode(text, "latin1")           bytes, a code point each
    __builtin__.bytes                        no bytes
    __builtin__.set, frozenset               a description of the call, as of everything below; see `metadata_values`
    datetime.date, time, datetime, timezone, timedelta
    numpy.dtype, and BUILD                   what a scalar's bytes are
    numpy.core.multiarray.scalar             a NumPy scalar; since NumPy 2 in numpy._core

Anything else stays a mark with its name, whatever is done to it. An opcode that is not in the table ends the file.

Memory: what the pickle makes of it, at most `OBJECT_BYTES_MAX`. Longer texts stay in the file, so that a dataset of compressed
tensors, which are such texts, takes little more than its metadata. Nothing here calls itself, so that depth costs nothing, and
only texts are keys of dicts, whose hashes nobody can foresee.

Source: https://github.com/python/cpython/blob/main/Lib/pickletools.py, protocol 2.
"""

from __future__ import annotations

import pickletools
import struct
from typing import TYPE_CHECKING, NoReturn

from tensorus.old_files.errors import OldFileError
from tensorus.old_files.pt_values import (
    LongText,
    Mark,
    PickledBytes,
    PickledObject,
    PickledTensor,
    Storage,
    kind_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tensorus.old_files.pt_container import PtContainer

__all__ = ["LONG_TEXT_BYTES_MIN", "OBJECT_BYTES_MAX", "PICKLE", "read_pickle"]

PICKLE = "data.pkl"
"""The member that is read."""

LONG_TEXT_BYTES_MIN = 256
"""A text of so many bytes stays in the file: keys and ids are shorter; a compressed tensor is longer, as its container is."""

OBJECT_BYTES_MAX = 1024**3
"""What the values of one pickle may take in memory, by `_OPERATIONS`: those of a quarter of a million records, at about 4 KiB
each. The original, which wrote every record again for each new one, came nowhere near."""

_WINDOW_BYTES = 16 * 1024
"""What is read of a pickle at once. Little: between two texts that are passed over lie a few hundred bytes."""

_NAME_BYTES_MAX = 256
"""Of a module, and of a name in it: torch's longest have about 40."""


def read_pickle(container: PtContainer) -> object:
    """Return the value of a container's pickle.

    Raises:
        OldFileError: it is damaged, has an opcode that torch.save does not write, or would take too much memory; names the
            opcode and its place.
    """
    return _Machine(_Source(container)).run()


class _OrderedDict(dict[object, object]):
    """An ordered dict, which pickles tell from a dict."""

    __slots__ = ()


class _Source:
    """The pickle's bytes, from front to back."""

    def __init__(self, container: PtContainer) -> None:
        self._container = container
        self._length = container.length(PICKLE)
        self._window = b""
        self._window_offset = 0
        self.position = 0

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes; few."""
        begin = self.position - self._window_offset
        if begin + count > len(self._window) or begin < 0:
            self._fill(count)
            begin = 0
        self.position += count
        return self._window[begin : begin + count]

    def line(self) -> str:
        """Return the text up to the next newline, which it passes."""
        found = bytearray()
        while (byte := self.take(1)) != b"\n":
            found += byte
            if len(found) > _NAME_BYTES_MAX:
                raise OldFileError(f"a name is longer than {_NAME_BYTES_MAX} bytes at byte {self.position} of {PICKLE}")
        return found.decode(errors="replace")

    def skip(self, count: int) -> int:
        """Pass `count` bytes, however many, and return where they begin."""
        begin = self.position
        if count > self._length - begin:
            raise OldFileError(
                f"a text of {count} bytes at byte {begin} goes beyond the {self._length} bytes of {PICKLE}"
            )
        self.position += count
        return begin

    @property
    def at_end(self) -> bool:
        """Whether all has been taken."""
        return self.position == self._length

    def _fill(self, count: int) -> None:
        left = self._length - self.position
        if count > left:
            raise OldFileError(f"{PICKLE} ends at byte {self._length}, inside an opcode")
        self._window = b"".join(self._container.blocks(PICKLE, self.position, min(_WINDOW_BYTES, left)))
        self._window_offset = self.position


class _Machine:
    """One pickle on its way. Each method without a docstring is the opcode of its name."""

    def __init__(self, source: _Source) -> None:
        self._source = source
        self._stack: list[object] = []
        self._below: list[list[object]] = []
        self._memo: list[object] = []
        self._marks: dict[str, Mark] = {}
        self._spent_bytes = 0
        self._at = 0
        self._opcode = 0

    def run(self) -> object:
        """Return the value of the whole."""
        source = self._source
        if source.take(2) != b"\x80\x02":
            raise OldFileError(f"{PICKLE} is no pickle of protocol 2")
        while True:
            self._at = source.position
            self._opcode = source.take(1)[0]
            operation = _OPERATIONS.get(self._opcode)
            if operation is None:
                self._refuse("is none that torch.save writes, and is not followed")
            execute, bytes_needed = operation
            self._spend(bytes_needed)
            if execute is None:
                return self._stop()
            try:
                execute(self)
            except IndexError:
                self._refuse("finds less on the stack than it needs")

    def _stop(self) -> object:
        if len(self._stack) != 1 or self._below or not self._source.at_end:
            self._refuse("does not end with one value")
        return self._stack[0]

    def _spend(self, count: int) -> None:
        self._spent_bytes += count
        if self._spent_bytes > OBJECT_BYTES_MAX:
            self._refuse(f"would take more memory than {OBJECT_BYTES_MAX} bytes with all before it")

    def _refuse(self, what: str) -> NoReturn:
        name = _OPCODE_NAMES.get(self._opcode, "unknown")
        raise OldFileError(f"opcode {name} (0x{self._opcode:02x}) at byte {self._at} of {PICKLE} {what}")

    def _number(self, count: int) -> int:
        """Return the unsigned number of the next `count` bytes."""
        return int.from_bytes(self._source.take(count), "little")

    def _marked(self, name: str) -> Mark:
        """Return the one mark of this name."""
        mark = self._marks.get(name)
        if mark is None:
            self._spend(256 + 4 * len(name))
            mark = self._marks[name] = Mark(name)
        return mark

    def _since_mark(self) -> list[object]:
        """Return everything since the last MARK, and forget both."""
        found, self._stack = self._stack, self._below.pop()
        return found

    # ---- Values ---------------------------------------------------------------------------------------------------------

    def none(self) -> None:
        self._stack.append(None)

    def newtrue(self) -> None:
        self._stack.append(True)

    def newfalse(self) -> None:
        self._stack.append(False)

    def binint(self) -> None:
        self._stack.append(int.from_bytes(self._source.take(4), "little", signed=True))

    def binint1(self) -> None:
        self._stack.append(self._number(1))

    def binint2(self) -> None:
        self._stack.append(self._number(2))

    def long1(self) -> None:
        self._stack.append(int.from_bytes(self._source.take(self._number(1)), "little", signed=True))

    def binfloat(self) -> None:
        self._stack.append(struct.unpack(">d", self._source.take(8))[0])

    def binunicode(self) -> None:
        length = self._number(4)
        if length >= LONG_TEXT_BYTES_MIN:
            self._stack.append(LongText(self._source.skip(length), length))
            return
        # Python keeps four bytes per character where one of them needs it.
        self._spend(4 * length)
        try:
            # As Python pickles: a lone surrogate is let through here, and refused where it is used.
            self._stack.append(self._source.take(length).decode("utf-8", "surrogatepass"))
        except UnicodeDecodeError:
            self._refuse("has a text that is no UTF-8")

    # ---- Containers -----------------------------------------------------------------------------------------------------

    def mark(self) -> None:
        self._below.append(self._stack)
        self._stack = []

    def empty_dict(self) -> None:
        self._stack.append({})

    def empty_list(self) -> None:
        self._stack.append([])

    def empty_tuple(self) -> None:
        self._stack.append(())

    def tuple_(self) -> None:
        items = tuple(self._since_mark())
        self._stack.append(items)

    def tuple1(self) -> None:
        self._stack[-1:] = [(self._stack[-1],)]

    def tuple2(self) -> None:
        self._stack[-2:] = [(self._stack[-2], self._stack[-1])]

    def tuple3(self) -> None:
        self._stack[-3:] = [(self._stack[-3], self._stack[-2], self._stack[-1])]

    def append(self) -> None:
        item = self._stack.pop()
        self._extend([item])

    def appends(self) -> None:
        self._extend(self._since_mark())

    def setitem(self) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._update([key, value])

    def setitems(self) -> None:
        self._update(self._since_mark())

    def _extend(self, items: list[object]) -> None:
        container = self._stack[-1]
        if isinstance(container, list):
            container.extend(items)
        elif not isinstance(container, Mark):
            self._refuse(f"adds to a {kind_of(container)}, which is no list")

    def _update(self, items: list[object]) -> None:
        container = self._stack[-1]
        if len(items) % 2:
            self._refuse("has a key without a value")
        if isinstance(container, dict):
            for key, value in zip(items[::2], items[1::2], strict=True):
                # A mark stands for all other keys of a kind: nobody looks them up.
                container[key if isinstance(key, str) else self._marked(f"a key that is a {kind_of(key)}")] = value
        elif not isinstance(container, Mark):
            self._refuse(f"sets an item of a {kind_of(container)}, which is no dict")

    # ---- The memo -------------------------------------------------------------------------------------------------------

    def binput(self) -> None:
        self._put(self._number(1))

    def long_binput(self) -> None:
        self._put(self._number(4))

    def _put(self, place: int) -> None:
        value = self._stack[-1]
        if place == len(self._memo):
            self._memo.append(value)
        elif place < len(self._memo):
            self._memo[place] = value
        else:
            self._refuse(f"writes place {place} of the memo, which has {len(self._memo)} so far")

    def binget(self) -> None:
        self._get(self._number(1))

    def long_binget(self) -> None:
        self._get(self._number(4))

    def _get(self, place: int) -> None:
        if place >= len(self._memo):
            self._refuse(f"reads place {place} of the memo, which has {len(self._memo)} so far")
        self._stack.append(self._memo[place])

    # ---- What a pickle names --------------------------------------------------------------------------------------------

    def global_(self) -> None:
        self._stack.append(self._marked(f"{self._source.line()}.{self._source.line()}"))

    def binpersid(self) -> None:
        self._stack.append(_storage(self._stack.pop()))

    def reduce(self) -> None:
        arguments, mark = self._stack.pop(), self._stack.pop()
        if not isinstance(mark, Mark) or not isinstance(arguments, tuple):
            self._refuse(f"calls a {kind_of(mark)}, which is nothing that can be called")
        make = _MAKERS.get(mark.name)
        self._stack.append(mark if make is None else make(mark, arguments))

    def newobj(self) -> None:
        arguments, mark = self._stack.pop(), self._stack.pop()
        if not isinstance(mark, Mark) or not isinstance(arguments, tuple):
            self._refuse(f"makes an object of a {kind_of(mark)}, which is no class")
        self._stack.append(mark)

    def build(self) -> None:
        state, changed = self._stack.pop(), self._stack[-1]
        if isinstance(changed, PickledObject):
            changed.state = state
        # An ordered dict may have attributes, as the state of a model does: they are not its items.
        elif not isinstance(changed, (Mark, _OrderedDict)):
            self._refuse(f"changes a {kind_of(changed)}")


def _storage(named: object) -> Storage | Mark:
    if isinstance(named, tuple) and len(named) == 5:
        word, kind, key, _location, count = named
        if word == "storage" and isinstance(kind, Mark) and isinstance(key, str):
            return Storage(kind.name, key, count)
    return Mark("a storage that torch does not write")


def _tensor_v2(mark: Mark, arguments: tuple[object, ...]) -> object:
    if not 6 <= len(arguments) <= 7:
        return mark
    storage, offset, shape, strides, _requires_grad, _hooks, *flags = arguments
    return PickledTensor(storage, offset, shape, strides, None, flags[0] if flags else None)


def _tensor_v3(mark: Mark, arguments: tuple[object, ...]) -> object:
    if not 7 <= len(arguments) <= 8 or arguments[6] is None:
        return mark
    storage, offset, shape, strides, _requires_grad, _hooks, dtype, *flags = arguments
    return PickledTensor(storage, offset, shape, strides, dtype, flags[0] if flags else None)


def _ordered_dict(mark: Mark, arguments: tuple[object, ...]) -> object:
    return mark if arguments else _OrderedDict()


def _size(mark: Mark, arguments: tuple[object, ...]) -> object:
    return arguments[0] if len(arguments) == 1 and isinstance(arguments[0], tuple) else mark


def _encoded(mark: Mark, arguments: tuple[object, ...]) -> object:
    if len(arguments) == 2:
        text, encoding = arguments
        if isinstance(text, (str, LongText)) and isinstance(encoding, str) and encoding in {"latin1", "latin-1"}:
            return PickledBytes(text)
    return mark


def _empty_bytes(mark: Mark, arguments: tuple[object, ...]) -> object:
    return mark if arguments else PickledBytes("")


def _described(mark: Mark, arguments: tuple[object, ...]) -> object:
    return PickledObject(mark.name, arguments)


_DESCRIBED = (
    "__builtin__.frozenset",
    "__builtin__.set",
    "datetime.date",
    "datetime.datetime",
    "datetime.time",
    "datetime.timedelta",
    "datetime.timezone",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
)

_MAKERS: dict[str, Callable[[Mark, tuple[object, ...]], object]] = {
    "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "collections.OrderedDict": _ordered_dict,
    "torch.Size": _size,
    "_codecs.encode": _encoded,
    "__builtin__.bytes": _empty_bytes,
    **dict.fromkeys(_DESCRIBED, _described),
}
"""What REDUCE makes of the arguments of what is named; of anything else it makes the mark itself."""

_OPCODE_NAMES = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}

_OPERATIONS: dict[int, tuple[Callable[[_Machine], None] | None, int]] = {
    ord("."): (None, 0),
    ord("("): (_Machine.mark, 64),
    ord("}"): (_Machine.empty_dict, 72),
    ord("]"): (_Machine.empty_list, 64),
    ord(")"): (_Machine.empty_tuple, 8),
    ord("t"): (_Machine.tuple_, 48),
    0x85: (_Machine.tuple1, 56),
    0x86: (_Machine.tuple2, 64),
    0x87: (_Machine.tuple3, 72),
    ord("a"): (_Machine.append, 40),
    ord("e"): (_Machine.appends, 16),
    ord("s"): (_Machine.setitem, 240),
    ord("u"): (_Machine.setitems, 240),
    ord("N"): (_Machine.none, 16),
    0x88: (_Machine.newtrue, 16),
    0x89: (_Machine.newfalse, 16),
    ord("J"): (_Machine.binint, 48),
    ord("K"): (_Machine.binint1, 16),
    ord("M"): (_Machine.binint2, 48),
    0x8A: (_Machine.long1, 320),
    ord("G"): (_Machine.binfloat, 40),
    ord("X"): (_Machine.binunicode, 160),
    ord("q"): (_Machine.binput, 16),
    ord("r"): (_Machine.long_binput, 16),
    ord("h"): (_Machine.binget, 16),
    ord("j"): (_Machine.long_binget, 16),
    ord("c"): (_Machine.global_, 16),
    ord("R"): (_Machine.reduce, 160),
    0x81: (_Machine.newobj, 8),
    ord("b"): (_Machine.build, 0),
    ord("Q"): (_Machine.binpersid, 96),
}
"""Every opcode that is followed, and what it takes in memory at most, in bytes, places in lists and dicts included. A test
holds them against `tracemalloc`."""

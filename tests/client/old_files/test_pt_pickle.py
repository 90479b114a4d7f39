"""The pickle: what torch writes is understood, and everything else stands still."""

from __future__ import annotations

import collections
import datetime as dt
import io
import os
import pickle
import pickletools
import random
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from support.cases import each
from support.old_tensorus import archive, text
from tensorus.old_files import pt_pickle
from tensorus.old_files.errors import OldFileError
from tensorus.old_files.pt_container import PtContainer
from tensorus.old_files.pt_pickle import LONG_TEXT_BYTES_MIN, read_pickle
from tensorus.old_files.pt_values import LongText, Mark, PickledBytes, PickledObject, PickledTensor, Storage


def parsed(data: bytes) -> Any:
    """Return the value of a pickle, its head and its STOP added."""
    return read_pickle(PtContainer(io.BytesIO(archive(b"\x80\x02" + data + b"."))))


def saved(value: object) -> Any:
    """Return the value that torch saved."""
    file = io.BytesIO()
    torch.save(value, file)
    return read_pickle(PtContainer(file))


# ---- What torch writes --------------------------------------------------------------------------------------------------

PLAIN: list[Any] = [
    None,
    True,
    False,
    0,
    255,
    256,
    65535,
    65536,
    -1,
    2**31 - 1,
    -(2**31),
    2**31,
    -(2**63),
    2**63 - 1,
    2**200,
    0.0,
    -1.5,
    float("inf"),
    "",
    "é\N{GRINNING FACE}\0",
    "\ud800",
    [],
    [1],
    list(range(2500)),
    (),
    (1,),
    (1, 2),
    (1, 2, 3),
    (1, 2, 3, 4),
    {},
    {"a": 1},
    {"a": {"b": [{"c": (None, "d")}]}, "e": 1.0},
    {str(number): number for number in range(2500)},
]


@each("value", PLAIN)
def test_plain_values_are_themselves(value: object) -> None:
    found = saved(value)
    assert found == value
    assert type(found) is type(value)


def test_long_texts_stay_in_the_file() -> None:
    found = saved(["x" * (LONG_TEXT_BYTES_MIN - 1), "y" * LONG_TEXT_BYTES_MIN])
    assert found[0] == "x" * (LONG_TEXT_BYTES_MIN - 1)
    assert isinstance(found[1], LongText)
    assert found[1].length == LONG_TEXT_BYTES_MIN


def test_what_a_pickle_repeats_is_one_thing() -> None:
    inner = {"a": [1, 2]}
    first, second = saved([inner, inner])
    assert first is second


def test_a_list_may_hold_itself() -> None:
    value: list[Any] = []
    value.append(value)
    found = saved(value)
    assert found[0] is found


def test_bytes_are_the_text_of_their_code_points() -> None:
    short, long, empty = saved([b"\x00\x7f\x80\xff", b"\xff" * 300, b""])
    assert isinstance(short, PickledBytes)
    assert short.text == "\x00\x7f\x80\xff"
    assert isinstance(long.text, LongText)
    assert long.text.length == 600
    assert empty.text == ""


def test_tensors_are_described() -> None:
    found = saved(torch.arange(6.0).reshape(2, 3).t())
    assert isinstance(found, PickledTensor)
    assert (found.offset, found.shape, found.strides, found.dtype) == (0, (3, 2), (1, 3), None)
    assert isinstance(found.storage, Storage)
    assert (found.storage.kind, found.storage.key, found.storage.count) == ("torch.FloatStorage", "0", 6)


def test_tensors_of_newer_dtypes_are_described() -> None:
    found = saved(torch.ones(3, dtype=torch.uint16))
    assert isinstance(found.dtype, Mark)
    assert found.dtype.name == "torch.uint16"
    assert (found.storage.kind, found.storage.count) == ("torch.storage.UntypedStorage", 6)


def test_ordered_dicts_are_dicts_even_with_attributes() -> None:
    ordered = collections.OrderedDict(b=1, a=2)
    ordered._metadata = {"version": 1}  # type: ignore[attr-defined]  # as the state of a model has
    assert saved([ordered, collections.OrderedDict()]) == [{"b": 1, "a": 2}, {}]


def test_sizes_are_tuples() -> None:
    assert saved(torch.Size([2, 3])) == (2, 3)


@each(
    ("value", "name"),
    [
        (torch.float32, "torch.float32"),
        (1 + 2j, "__builtin__.complex"),
        (bytearray(b"ab\xff"), "__builtin__.bytearray"),
        (bytearray(), "__builtin__.bytearray"),
        (collections.defaultdict(list, {"a": [1]}), "collections.defaultdict"),
        (collections.Counter("aab"), "collections.Counter"),
        (collections.deque([1, 2]), "collections.deque"),
        (Path("a/b"), f"pathlib.{type(Path()).__name__}"),
        (torch.nn.Parameter(torch.ones(2)), "torch._utils._rebuild_parameter"),
        (torch.ones(2).to_sparse(), "torch._utils._rebuild_sparse_tensor"),
        (print, "__builtin__.print"),
        (random.Random(7), "random.Random"),
    ],
)
def test_anything_else_is_a_mark_with_its_name(value: object, name: str) -> None:
    before, found, after = saved(["before", value, "after"])
    assert (before, after) == ("before", "after")
    assert isinstance(found, Mark)
    assert found.name == name


@each(
    ("value", "name", "count"),
    [
        ({1, 2}, "__builtin__.set", 1),
        (frozenset([1]), "__builtin__.frozenset", 1),
        (dt.date(2025, 9, 1), "datetime.date", 1),
        (dt.time(12, 30), "datetime.time", 1),
        (dt.datetime(2025, 9, 1, tzinfo=dt.UTC), "datetime.datetime", 2),
        (dt.timedelta(1), "datetime.timedelta", 3),
        (dt.UTC, "datetime.timezone", 1),
        (np.float32(1.5), f"{np.float32(1.5).__reduce__()[0].__module__}.scalar", 2),
    ],
)
def test_small_objects_are_described_and_not_made(value: object, name: str, count: int) -> None:
    found = saved(value)
    assert isinstance(found, PickledObject)
    assert (found.name, len(found.arguments), found.state) == (name, count, None)


def test_a_dtype_is_described_with_its_state_wherever_it_is_repeated() -> None:
    first, second = saved([np.float32(1.5), np.float32(2.5)])
    assert first.arguments[0] is second.arguments[0]
    assert first.arguments[0].name == "numpy.dtype"
    assert first.arguments[0].arguments[0] == "f4"
    assert first.arguments[0].state[:5] == (3, "<", None, None, None)


# ---- Nothing is run -----------------------------------------------------------------------------------------------------


class _Runs:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self._reduced = function, arguments

    def __reduce__(self) -> Any:
        return self._reduced


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_no_protocol_runs_anything(tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "ran"
    data = pickle.dumps(_Runs(os.system, f"touch {marker}"), protocol)
    try:
        found = read_pickle(PtContainer(io.BytesIO(archive(data))))
    except OldFileError:
        assert protocol != 2
    else:
        assert isinstance(found, Mark)
        assert found.name == "posix.system"
    assert not marker.exists()
    pickle.loads(data)
    assert marker.exists(), "otherwise this test shows nothing"


def test_nothing_that_a_pickle_names_is_imported() -> None:
    name = "this_module_would_be_noticed"
    found = parsed(f"c{name}\nfunction\n".encode() + b")R")
    assert found.name == f"{name}.function"
    assert name not in sys.modules
    assert parsed(b"cantigravity\nfly\n" + b")R").name == "antigravity.fly"
    assert "antigravity" not in sys.modules


# ---- What torch does not write ------------------------------------------------------------------------------------------

LISTED = set(b".(}])t\x85\x86\x87aesuN\x88\x89JKM\x8aGXqrhjcR\x81bQ") | {0x80}


@each("code", sorted(set(range(256)) - (LISTED - {0x80})))
def test_any_other_opcode_ends_the_file_with_its_name_and_place(code: int) -> None:
    names = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}
    with pytest.raises(
        OldFileError, match=rf"opcode {names.get(code, 'unknown')} \(0x{code:02x}\) at byte 3 of data.pkl is none"
    ):
        parsed(b"N" + bytes([code]) + bytes(20))


REFUSED: list[Any] = [
    pytest.param(b"", r"opcode STOP \(0x2e\) at byte 2 .* does not end with one value", id="nothing"),
    pytest.param(b"NN", "opcode STOP .* does not end with one value", id="two values"),
    pytest.param(b"(N", "opcode STOP .* does not end with one value", id="a mark that is left"),
    pytest.param(b"N.N", r"opcode STOP \(0x2e\) at byte 3 .* does not end", id="bytes after the end"),
    pytest.param(b"a", r"opcode APPEND \(0x61\) at byte 2 .* finds less on the stack", id="an append to nothing"),
    pytest.param(b"Na", "opcode APPEND .* finds less on the stack", id="an append to nothing of something"),
    pytest.param(b"NNa", "opcode APPEND .* adds to a NoneType, which is no list", id="an append to None"),
    pytest.param(b"](Na", "opcode APPEND .* finds less on the stack", id="an append across a mark"),
    pytest.param(b"](NN", "opcode STOP", id="no appends"),
    pytest.param(b"Ne", "opcode APPENDS .* finds less on the stack", id="appends without a mark"),
    pytest.param(b"}(Ne", "opcode APPENDS .* adds to a dict", id="appends to a dict"),
    pytest.param(b"](NNu", "opcode SETITEMS .* sets an item of a list", id="an item of a list"),
    pytest.param(b"}(NNNu", "opcode SETITEMS .* has a key without a value", id="an odd number"),
    pytest.param(b"}Ns", "opcode SETITEM .* finds less|sets an item", id="half an item"),
    pytest.param(b"t", "opcode TUPLE .* finds less on the stack", id="a tuple without a mark"),
    pytest.param(b"\x85", "opcode TUPLE1 .* finds less on the stack", id="a tuple of nothing"),
    pytest.param(b"N\x86", "opcode TUPLE2 .* finds less on the stack", id="a pair of one"),
    pytest.param(b"NN\x87", "opcode TUPLE3 .* finds less on the stack", id="a triple of two"),
    pytest.param(b"h\0", "opcode BINGET .* reads place 0 of the memo, which has 0 so far", id="an empty memo"),
    pytest.param(b"Nq\1", "opcode BINPUT .* writes place 1 of the memo, which has 0 so far", id="a hole in the memo"),
    pytest.param(b"Nr\xff\xff\xff\xff", "opcode LONG_BINPUT .* writes place 4294967295", id="a memo bomb"),
    pytest.param(b"Nq\0j\1\0\0\0", "opcode LONG_BINGET .* reads place 1", id="beyond the memo"),
    pytest.param(b"q\0", "opcode BINPUT .* finds less on the stack", id="a memo of nothing"),
    pytest.param(b"X\xff\xff\xff\xffabc", "a text of 4294967295 bytes at byte 7 goes beyond", id="a gigantic text"),
    pytest.param(b"X\x05\0\0\0abc", "data.pkl ends at byte", id="a text a little too long"),
    pytest.param(b"X\x02\0\0\0\xff\xfe", "opcode BINUNICODE .* has a text that is no UTF-8", id="no text"),
    pytest.param(b"\x8a\xff\1", "data.pkl ends at byte .* inside an opcode", id="a torn integer"),
    pytest.param(b"G\0", "data.pkl ends at byte", id="a torn float"),
    pytest.param(b"c" + b"x" * 300, "a name is longer than 256 bytes", id="a long name"),
    pytest.param(b"cos\nsystem", "data.pkl ends", id="a torn name"),
    pytest.param(b"](NeR", "opcode REDUCE .* finds less", id="a call of nothing"),
    pytest.param(b"])R", "opcode REDUCE .* calls a list, which is nothing that can be called", id="a call of a list"),
    pytest.param(b"cos\nsystem\nNR", "opcode REDUCE .* calls a os.system", id="a call without arguments"),
    pytest.param(b"])\x81", "opcode NEWOBJ .* makes an object of a list", id="an object of a list"),
    pytest.param(b"]}b", "opcode BUILD .* changes a list", id="a changed list"),
    pytest.param(b"}}b", "opcode BUILD .* changes a dict", id="a changed dict"),
    pytest.param(b"c__builtin__\nset\n](K\1e\x85R(K\2e", "APPENDS .* adds to a __builtin__.set", id="an item of a set"),
    pytest.param(b"cdatetime\ndate\n)R)R", "opcode REDUCE .* calls a datetime.date", id="a call of a date"),
    pytest.param(b"cdatetime\ndate\n)R)\x81", "opcode NEWOBJ .* makes an object of a datetime.date", id="a date's object"),
    pytest.param(b"Nb", "opcode BUILD .* finds less", id="a change of nothing"),
]  # fmt: skip


@each(("data", "match"), REFUSED)
def test_a_pickle_that_makes_no_sense_is_refused(data: bytes, match: str) -> None:
    with pytest.raises(OldFileError, match=match):
        parsed(data)


@each("data", [b"\x80\x03N.", b"\x80\x04N.", b"N.", b"\x80", b"", b"\x80\x02"])
def test_another_protocol_is_refused(data: bytes) -> None:
    with pytest.raises(OldFileError, match=r"no pickle of protocol 2|data\.pkl ends"):
        read_pickle(PtContainer(io.BytesIO(archive(data))))


# ---- Marks absorb everything --------------------------------------------------------------------------------------------


@each(
    "data",
    [
        b")R",
        b")\x81",
        b"Nb",
        b")R}b",
        b"(NNe",
        b"Na",
        b"NNs",
        b"(NNu",
        b")RNb(NNe(NNu)R)\x81",
        b"((((ttttR",
    ],
)
def test_a_mark_stays_a_mark_whatever_is_done_to_it(data: bytes) -> None:
    assert parsed(b"cos\nsystem\n" + data).name == "os.system"


MARKED: list[Any] = [
    pytest.param(b"ctorch._utils\n_rebuild_tensor_v2\n)R", "torch._utils._rebuild_tensor_v2", id="a tensor of nothing"),
    pytest.param(b"ctorch._utils\n_rebuild_tensor_v3\n(NNNNNNtR", "torch._utils._rebuild_tensor_v3", id="no dtype"),
    pytest.param(b"c_codecs\nencode\n)R", "_codecs.encode", id="an encoding of nothing"),
    pytest.param(b"c_codecs\nencode\n(" + text("a") + text("rot13") + b"tR", "_codecs.encode", id="another encoding"),
    pytest.param(b"c_codecs\nencode\n(" + text("a") + b"]tR", "_codecs.encode", id="no encoding"),
    pytest.param(b"c_codecs\nencode\n(K\1" + text("latin1") + b"tR", "_codecs.encode", id="no text"),
    pytest.param(b"ctorch\nSize\n)R", "torch.Size", id="a size of nothing"),
    pytest.param(b"ctorch\nSize\n(]tR", "torch.Size", id="a size of a list"),
    pytest.param(b"ccollections\nOrderedDict\n(]tR", "collections.OrderedDict", id="an ordered dict of a list"),
    pytest.param(b"c__builtin__\nbytes\n(K\7tR", "__builtin__.bytes", id="seven bytes"),
    pytest.param(b"NQ", "a storage that torch does not write", id="a storage of nothing"),
    pytest.param(b"(NNNNNtQ", "a storage that torch does not write", id="a storage of Nones"),
    pytest.param(b"(" + text("storage") + b"NNNNtQ", "a storage that torch does not write", id="no kind"),
]


@each(("data", "name"), MARKED)
def test_listed_names_with_other_arguments_are_marks(data: bytes, name: str) -> None:
    found = parsed(data)
    assert isinstance(found, Mark)
    assert found.name == name


@each("key", [b"N", b"K\1", b"\x88", b"G" + bytes(8), b")", b"]", b"}", b"cos\nsystem\n", b"X\0\1\0\0" + b"k" * 256])
def test_keys_that_are_no_text_are_marks(key: bytes) -> None:
    found = parsed(b"}(" + text("a") + b"K\1" + key + b"K\2u")
    assert found["a"] == 1
    (other,) = [found_key for found_key in found if not isinstance(found_key, str)]
    assert isinstance(other, Mark)
    assert other.name.startswith("a key that is a ")


# ---- Depth and memory ---------------------------------------------------------------------------------------------------

DEPTH = 20_000

DEEP: list[Any] = [
    pytest.param(b"]" * DEPTH + b"a" * (DEPTH - 1), id="lists"),
    pytest.param(b"N" + b"\x85" * DEPTH, id="tuples"),
    pytest.param((b"}" + text("k")) * DEPTH + b"N" + b"s" * DEPTH, id="dicts"),
    pytest.param(b"N" + (b"q\0h\0h\0\x86") * DEPTH + b"\x86" * DEPTH, id="pairs of the same"),
    pytest.param(b"}N" + b"\x85" * DEPTH + b"Ns", id="a key of tuples"),
    pytest.param(b"c_codecs\nencode\n" + text("a") + b"N" + b"\x85" * DEPTH + b"\x86R", id="an encoding of tuples"),
    pytest.param(b"N" + b"\x85" * DEPTH + b"Q", id="a storage of tuples"),
]


@each("data", DEEP)
def test_depth_costs_nothing(data: bytes) -> None:
    found = parsed(data)
    del found


BOMBS: list[Any] = [
    pytest.param(b"](" + b"]" * 5_000 + b"e", id="lists"),
    pytest.param(b"](" + b"}" * 5_000 + b"e", id="dicts"),
    pytest.param(b"](" + b"}NNs" * 2_500 + b"e", id="dicts of one"),
    pytest.param(b"](" + (b"}" + text("a") + b"Ns") * 2_500 + b"e", id="dicts of one text"),
    pytest.param(b"](" + b"]Na" * 2_500 + b"e", id="lists of one"),
    pytest.param(b"](" + b"N\x85" * 5_000 + b"e", id="tuples"),
    pytest.param(b"](" + b"(t" * 5_000 + b"e", id="empty tuples"),
    pytest.param(b"](" + b"(NNNNt" * 2_500 + b"e", id="tuples of four"),
    pytest.param(b"(" * 5_000 + b"t" * 5_000, id="marks"),
    pytest.param(b"](" + b"\x8a\xff" + b"\x7f" * 255 + b"e", id="an integer"),
    pytest.param(b"](" + (b"\x8a\xff" + b"\x7f" * 255) * 5_000 + b"e", id="integers"),
    pytest.param(b"](" + b"J\xff\xff\xff\x7f" * 2_500 + b"e", id="small integers"),
    pytest.param(b"](" + b"M\xff\x7f" * 2_500 + b"e", id="smaller integers"),
    pytest.param(b"](" + (b"G" + b"\x40" * 8) * 2_500 + b"e", id="floats"),
    pytest.param(b"](" + b"".join(text(f"{n:06}\N{GRINNING FACE}") for n in range(2_500)) + b"e", id="texts"),
    pytest.param(b"](" + text("x" * 300) * 1_500 + b"e", id="long texts"),
    pytest.param(b"](" + b"".join(b"N" + b"r" + n.to_bytes(4, "little") for n in range(5_000)) + b"e", id="memo"),
    pytest.param(b"]q\0(" + b"h\0" * 5_000 + b"e", id="the memo, read"),
    pytest.param(b"](" + b"".join(f"ca\n{n:06}\n".encode() for n in range(2_500)) + b"e", id="names"),
    pytest.param(b"](" + b"ctorch._utils\n_rebuild_tensor_v2\n(NNNNNNtR" * 1_500 + b"e", id="tensors"),
    pytest.param(b"](" + b"ccollections\nOrderedDict\n)R" * 1_500 + b"e", id="ordered dicts"),
    pytest.param(b"](" + b"c__builtin__\nset\n)R" * 2_500 + b"e", id="sets"),
    pytest.param(b"](" + b"cnumpy\ndtype\n)R}b" * 2_500 + b"e", id="dtypes with states"),
    pytest.param(b"](" + (b"c_codecs\nencode\n(" + text("a") + text("latin1") + b"tR") * 1_500 + b"e", id="bytes"),
    pytest.param(b"](" + (b"(" + text("storage") + b"ca\nb\n" + text("0") + b"NNtQ") * 1_500 + b"e", id="storages"),
    pytest.param(b"}(" + b"".join(text(f"{n:06}") + b"N" for n in range(2_500)) + b"u", id="items of a dict"),
    pytest.param(b"}" + b"".join(text(f"{n:06}") + b"Ns" for n in range(2_500)), id="items, one by one"),
    pytest.param(
        b"}(" + b"".join(b"M" + (n + 300).to_bytes(2, "little") + b"N" for n in range(2_500)) + b"u", id="keys"
    ),
]


@pytest.mark.slow
@each("data", BOMBS)
def test_a_pickle_takes_no_more_memory_than_its_opcodes_are_counted_for(data: bytes) -> None:
    spent: list[int] = []

    class _Counted(pt_pickle._Machine):
        def run(self) -> object:
            found = super().run()
            spent.append(self._spent_bytes)
            return found

    container = PtContainer(io.BytesIO(archive(b"\x80\x02" + data + b".")))
    container.length("data.pkl")
    tracemalloc.start()
    try:
        found = _Counted(pt_pickle._Source(container)).run()
        taken_bytes, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    del found
    # What is read at once, twice over.
    window_bytes = 32 * 1024
    assert taken_bytes <= spent[0] + window_bytes
    assert peak_bytes <= 2 * spent[0] + window_bytes


@each("data", [param for param in BOMBS if param.id != "an integer"])
def test_a_pickle_beyond_the_limit_is_refused(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pt_pickle, "OBJECT_BYTES_MAX", 50_000)
    with pytest.raises(OldFileError, match="would take more memory than 50000 bytes"):
        parsed(data)


@pytest.mark.slow
def test_compressed_tensors_take_no_memory() -> None:
    blob = (b"c_codecs\nencode\n(" + text("\xff" * 1_000_000) + text("latin1") + b"tR") * 20
    container = PtContainer(io.BytesIO(archive(b"\x80\x02](" + blob + b"e.")))
    tracemalloc.start()
    try:
        found: Any = read_pickle(container)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found) == 20
    assert peak_bytes < 1_500_000

"""The container: what torch writes is found, and every number that lies is refused before it is used."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from support.cases import each
from support.old_tensorus import archive
from tensorus.old_files.errors import OldFileError
from tensorus.old_files.pt_container import BLOCK_BYTES, PtContainer

PICKLE = b"\x80\x02N."


def opened(data: bytes) -> PtContainer:
    return PtContainer(io.BytesIO(data))


def read(container: PtContainer, name: str, start: int = 0, length: int | None = None) -> bytes:
    length = container.length(name) - start if length is None else length
    out = bytearray(length)
    container.read_into(name, start, memoryview(out))
    assert b"".join(container.blocks(name, start, length)) == out
    return bytes(out)


# ---- What is right ------------------------------------------------------------------------------------------------------


def test_a_file_of_torch_save_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a photo é.pt"
    torch.save([torch.arange(1000.0), torch.arange(3)], path)
    with path.open("rb") as file:
        container = PtContainer(file)
        assert read(container, "data.pkl")[:2] == b"\x80\x02"
        assert read(container, "data/0") == torch.arange(1000.0).numpy().tobytes()
        assert read(container, "data/1", 8, 8) == (1).to_bytes(8, "little")
        assert container.big_endian is False


def test_members_longer_than_a_block_are_read_whole() -> None:
    storage = bytes(range(256)) * (BLOCK_BYTES // 128) + b"end"
    container = opened(archive(PICKLE, {"0": storage}))
    assert read(container, "data/0") == storage
    assert read(container, "data/0", 5, BLOCK_BYTES + 7) == storage[5 : BLOCK_BYTES + 12]


@each(("name", "big"), [(b"little", False), (b"big", True), (b"little\n", False)])
def test_the_byteorder_is_what_the_member_says(name: bytes, big: bool) -> None:  # noqa: FBT001 - a row of a table
    assert opened(archive(PICKLE, extra={"byteorder": name})).big_endian is big


def test_without_a_byteorder_it_is_little() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        written.writestr("archive/data.pkl", PICKLE)
        written.writestr("archive/version", b"3\n")
    assert opened(file.getvalue()).big_endian is False


def test_zip64_numbers_are_read() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        for name, data in {"data.pkl": PICKLE, "version": b"3\n", "data/0": b"numbers"}.items():
            with written.open(f"old/{name}", "w", force_zip64=True) as member:
                member.write(data)
    container = opened(with_zip64_end(file.getvalue()))
    assert read(container, "data/0") == b"numbers"


def test_zip64_lengths_in_the_directory_are_read() -> None:
    container = opened(with_zip64_entries(archive(PICKLE, {"0": b"numbers"})))
    assert read(container, "data/0") == b"numbers"


def test_files_without_checksums_are_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(compute_crc32=False)
    try:
        torch.save(torch.arange(5), tmp_path / "old.pt")
    finally:
        torch.serialization.set_crc32_options(compute_crc32=True)
    with (tmp_path / "old.pt").open("rb") as file:
        assert len(read(PtContainer(file), "data/0")) == 40


# ---- What is wrong ------------------------------------------------------------------------------------------------------


def test_a_deflated_archive_is_refused() -> None:
    data = archive(PICKLE, {"0": bytes(1000)}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(
        OldFileError, match=r"member 'old/data.pkl' is compressed \(method 8\), which torch.save never does"
    ):
        opened(data)


def test_the_format_before_torch_1_6_is_refused_and_named(tmp_path: Path) -> None:
    torch.save(torch.ones(3), tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(OldFileError, match=r"of the format of torch before 1\.6, .* save it again"):
        opened((tmp_path / "legacy.pt").read_bytes())


def test_the_oldest_format_is_refused_and_named() -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as written:
        written.addfile(tarfile.TarInfo("storages"))
    with pytest.raises(OldFileError, match=r"of the format of torch before 1\.6"):
        opened(file.getvalue())


@each("data", [b"", b"x", b"no archive at all, but long enough to be one of those"])
def test_another_file_is_refused(data: bytes) -> None:
    with pytest.raises(OldFileError, match=r"it is no file of torch\.save"):
        opened(data)


def test_a_file_torn_at_any_byte_is_refused() -> None:
    data = archive(PICKLE, {"0": b"numbers"})
    for length in range(4, len(data)):
        with pytest.raises(OldFileError, match=r"torn|bytes, an archive has at least"):
            opened(data[:length])


def test_bytes_behind_the_end_are_refused() -> None:
    with pytest.raises(OldFileError, match="torn, or of another kind"):
        opened(archive(PICKLE) + b"\0")


def test_members_in_two_folders_are_refused() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        written.writestr("one/data.pkl", PICKLE)
        written.writestr("two/version", b"3\n")
    with pytest.raises(OldFileError, match="its members are in 2 folders"):
        opened(file.getvalue())


def test_two_members_of_one_name_are_refused() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        written.writestr("old/version", b"3\n")
        with pytest.warns(UserWarning, match="Duplicate name"):
            written.writestr("old/version", b"3\n")
    with pytest.raises(OldFileError, match="there are two members called 'old/version'"):
        opened(file.getvalue())


@each("version", [b"2\n", b"4\n", b"", b"x" * 1000])
def test_another_version_is_refused(version: bytes) -> None:
    with pytest.raises(OldFileError, match=r"its version is .*, must be '3'"):
        opened(archive(PICKLE, extra={"version": version}))


def test_an_archive_without_a_version_is_refused() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        written.writestr("old/data.pkl", PICKLE)
    with pytest.raises(OldFileError, match="its version is 'none', must be '3'"):
        opened(file.getvalue())


def test_another_byteorder_is_refused() -> None:
    with pytest.raises(OldFileError, match="its byteorder is 'middle', must be 'little' or 'big'"):
        opened(archive(PICKLE, extra={"byteorder": b"middle"}))


def test_a_missing_member_is_named() -> None:
    with pytest.raises(OldFileError, match="it has no member 'data/7'"):
        opened(archive(PICKLE)).length("data/7")


@each(("start", "length"), [(0, 8), (7, 1), (8, 0), (-1, 1), (2**63, 1)])
def test_bytes_beyond_a_member_are_refused(start: int, length: int) -> None:
    container = opened(archive(PICKLE, {"0": b"numbers"}))
    with pytest.raises(OldFileError, match="member 'old/data/0' has 7 bytes, bytes"):
        container.read_into("data/0", start, memoryview(bytearray(length)))
    with pytest.raises(OldFileError, match="member 'old/data/0' has 7 bytes, bytes"):
        list(container.blocks("data/0", start, length))


@each(
    "use",
    [
        lambda container: container.read_into("data/0", 0, memoryview(bytearray(1000))),
        lambda container: container.read_into("data/0", 0, memoryview(bytearray(10))),
        lambda container: list(container.blocks("data/0", 0, 10)),
    ],
    ids=["whole", "part", "blocks"],
)
def test_a_damaged_member_is_found_however_it_is_read(use: Callable[[PtContainer], None]) -> None:
    data = bytearray(archive(PICKLE, {"0": bytes(1000), "1": b"intact"}))
    data[data.index(b"data/0") + 500] ^= 1
    container = opened(bytes(data))
    assert read(container, "data/1") == b"intact"
    for _ in range(2):
        with pytest.raises(OldFileError, match=r"member 'old/data/0' is damaged: its CRC32 is \w+, was written as \w+"):
            use(container)


def test_a_file_that_shrinks_while_it_is_open_is_torn() -> None:
    file = io.BytesIO(archive(PICKLE, {"0": bytes(100_000)}))
    container = PtContainer(file)
    file.truncate(50_000)
    with pytest.raises(OldFileError, match="the file ends"):
        container.read_into("data/0", 0, memoryview(bytearray(100_000)))
    with pytest.raises(OldFileError, match="the file ends"):
        list(container.blocks("data/0", 0, 10))


# ---- Directories that lie -----------------------------------------------------------------------------------------------


def with_entry(data: bytes, name: bytes, offset: int, value: bytes) -> bytes:
    """Return the archive with a field of one directory entry replaced."""
    changed = bytearray(data)
    begin = data.rindex(b"PK\x01\x02", 0, data.rindex(name))
    changed[begin + offset : begin + offset + len(value)] = value
    return bytes(changed)


def with_end(data: bytes, offset: int, value: bytes) -> bytes:
    """Return the archive with a field of its end replaced."""
    begin = len(data) - 22 + offset
    return data[:begin] + value + data[begin + len(value) :]


def with_zip64_end(data: bytes) -> bytes:
    """Return the archive with its counts and places in a Zip64 end."""
    _, _, _, _, count, length, offset, _ = struct.unpack("<4s4H2IH", data[-22:])
    end64 = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, length, offset)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, len(data) - 22, 1)
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return data[:-22] + end64 + locator + end


def with_zip64_entries(data: bytes) -> bytes:
    """Return the archive with lengths and places of its entries in extra fields."""
    _, _, _, _, count, _, offset, _ = struct.unpack("<4s4H2IH", data[-22:])
    directory, position = b"", offset
    for _ in range(count):
        entry = bytearray(data[position : position + 46])
        name_bytes, extra_bytes = struct.unpack_from("<2H", entry, 28)
        name = data[position + 46 : position + 46 + name_bytes]
        member_bytes, (place,) = struct.unpack_from("<I", entry, 24)[0], struct.unpack_from("<I", entry, 42)
        extra = struct.pack("<2HI", 0x7777, 4, 7) + struct.pack("<2H3Q", 1, 24, member_bytes, member_bytes, place)
        struct.pack_into("<2I", entry, 20, 0xFFFFFFFF, 0xFFFFFFFF)
        struct.pack_into("<I", entry, 42, 0xFFFFFFFF)
        struct.pack_into("<H", entry, 30, len(extra))
        directory += bytes(entry) + name + extra
        position += 46 + name_bytes + extra_bytes
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, len(directory), offset, 0)
    return data[:offset] + directory + end


ARCHIVE = archive(PICKLE, {"0": b"numbers", "1": b"others!"})

LIES: list[Any] = [
    pytest.param(lambda: with_entry(ARCHIVE, b"data/0", 0, b"XX"), "its directory is damaged at byte", id="no entry"),
    pytest.param(lambda: with_entry(ARCHIVE, b"data/0", 8, b"\1"), "'old/data/0' is encrypted", id="encrypted"),
    pytest.param(
        lambda: with_entry(ARCHIVE, b"data/0", 20, b"\x08\0\0\0\x08\0\0\0"),
        "'old/data/0' has 8 bytes from byte .* but something else begins",
        id="a byte too long",
    ),
    pytest.param(
        lambda: with_entry(ARCHIVE, b"data/0", 20, b"\xfe\xff\xff\xff\xfe\xff\xff\xff"),
        "'old/data/0' has 4294967294 bytes from byte",
        id="gigantic",
    ),
    pytest.param(
        lambda: with_entry(ARCHIVE, b"data/0", 20, b"\xff\xff\xff\xff\xff\xff\xff\xff"),
        "'old/data/0' has no Zip64 lengths",
        id="Zip64 without an extra field",
    ),
    pytest.param(
        lambda: with_entry(ARCHIVE, b"data/0", 24, b"\x06"),
        r"'old/data/0' is compressed \(method 0\)",
        id="two lengths",
    ),
    pytest.param(
        lambda: with_entry(ARCHIVE, b"data/1", 42, ARCHIVE.index(b"PK\3\4", 40).to_bytes(4, "little")),
        "but something else begins at byte",
        id="two entries of one place",
    ),
    pytest.param(
        lambda: with_entry(ARCHIVE, b"data/0", 42, b"\3\0\0\0"), "but something else begins", id="into another"
    ),
    pytest.param(lambda: with_entry(ARCHIVE, b"data/0", 42, b"\xf0\0\0\1"), "something else", id="beyond the file"),
    pytest.param(lambda: with_entry(ARCHIVE, b"data/0", 28, b"\xff\xff"), "its directory is damaged", id="a long name"),
    pytest.param(lambda: with_end(ARCHIVE, 10, b"\x07\0"), "the archive has several parts", id="two counts"),
    pytest.param(lambda: with_end(ARCHIVE, 4, b"\1"), "the archive has several parts", id="a second disk"),
    pytest.param(lambda: with_end(ARCHIVE, 8, b"\x07\0\x07\0"), "has 5 members, 7 are announced", id="a wrong count"),
    pytest.param(lambda: with_end(ARCHIVE, 12, b"\xff\xff\xff\x7f"), "but it ends at byte", id="a gigantic directory"),
    pytest.param(
        lambda: with_end(ARCHIVE, 12, b"\x30\0\0\0"), "its directory is damaged|ends inside", id="a short one"
    ),
    pytest.param(lambda: with_end(ARCHIVE, 16, b"\xff\xff\xff\x7f"), "but it ends at byte", id="a directory elsewhere"),
    pytest.param(lambda: with_end(ARCHIVE, 20, b"\1"), "torn, or of another kind", id="a comment"),
    pytest.param(
        lambda: with_zip64_end(ARCHIVE)[:-34] + b"\xff" * 8 + with_zip64_end(ARCHIVE)[-26:],
        "its Zip64 end would be at byte 18446744073709551615",
        id="a Zip64 end beyond",
    ),
    pytest.param(
        lambda: with_zip64_end(ARCHIVE)[:-34] + bytes(8) + with_zip64_end(ARCHIVE)[-26:],
        "there is no Zip64 end at byte 0",
        id="a Zip64 end elsewhere",
    ),
]


@each(("changed", "match"), LIES)
def test_a_directory_that_lies_is_refused(changed: Callable[[], bytes], match: str) -> None:
    with pytest.raises(OldFileError, match=match):
        opened(changed())


@each(
    ("change", "match"),
    [
        (lambda data, at: data[:at] + b"XX" + data[at + 2 :], "has no proper header at byte"),
        (lambda data, at: data[:at] + data[at : at + 8] + b"\x08" + data[at + 9 :], "has no proper header at byte"),
        (lambda data, at: data.replace(b"old/data/0", b"old/data/9", 1), "calls itself 'old/data/9' at byte"),
        (
            lambda data, at: data[: at + 28] + b"\xff\0" + data[at + 30 :],
            "has 7 bytes from byte .* but something else begins",
        ),
    ],
    ids=["no header", "deflated", "another name", "a long extra field"],
)
def test_a_member_s_header_that_lies_is_refused(change: Callable[[bytes, int], bytes], match: str) -> None:
    at = ARCHIVE.index(b"old/data/0") - 30
    container = opened(change(ARCHIVE, at))
    with pytest.raises(OldFileError, match=match):
        read(container, "data/0")
    assert read(container, "data/1") == b"others!"

"""Packs as the sweep sees them: which there are, what is in them, copies into new ones, their deletion."""

from __future__ import annotations

import os

import pytest

from contract.chunk_store_contract import content, staged
from contract.chunk_store_raw_objects import RawObjects
from server.chunk_store.objects.conftest import CommittedStore, MakeStore
from tensorus_server.chunk_store.abc import PackedPart, PayloadMissingError, PayloadUnreadableError
from tensorus_server.chunk_store.objects.packs import pack_bytes
from tensorus_server.chunk_store.objects.store import ObjectChunkStore
from tensorus_server.payload_keys import PackedKey, parse_key


def packed(store: CommittedStore, *payloads: bytes) -> list[str]:
    """Return the keys of payloads in one pack."""
    return store.publish([staged(store, payload) for payload in payloads])


def pack_of(key: str) -> str:
    parsed = parse_key(key)
    assert isinstance(parsed, PackedKey)
    return parsed.pack


def test_packs_are_listed_with_their_sizes(make_store: MakeStore, raw: RawObjects) -> None:
    store = make_store()
    keys = [packed(store, b"one", b"two")[0], packed(store, b"three")[0]]
    found = {stored.pack: stored.stored_bytes for stored in store.packs.packs()}
    assert found == {pack_of(key): len(raw.objects()[f"p/{pack_of(key)[:2]}/{pack_of(key)}"]) for key in keys}


@pytest.mark.parametrize("count", [1, 3, 1500])
def test_a_directory_lists_every_payload(make_store: MakeStore, count: int) -> None:
    store = make_store()
    keys = packed(store, *(b"payload %d" % number for number in range(count)))
    parts = store.packs.parts(pack_of(keys[0]))
    assert [part.key for part in parts] == keys


def test_a_pack_that_is_not_there_or_damaged_is_told_apart(make_store: MakeStore, raw: RawObjects) -> None:
    store = make_store()
    (key,) = packed(store, b"payload")
    pack = pack_of(key)
    with pytest.raises(PayloadMissingError, match="there is no pack " + "0" * 32):
        store.packs.parts("0" * 32)
    name = f"p/{pack[:2]}/{pack}"
    whole = raw.objects()[name]
    for damaged in (whole[:-1], whole[1:], b"", whole[:-30] + b"x" + whole[-29:]):
        raw.put(name, damaged)
        with pytest.raises(PayloadUnreadableError, match=f"pack {pack}: "):
            store.packs.parts(pack)


def test_copies_have_the_same_bytes_and_payload_keys_in_one_new_pack(make_store: MakeStore) -> None:
    store = make_store()
    payloads = [os.urandom(100 + number) for number in range(6)]
    keys = packed(store, *payloads[:3]) + packed(store, *payloads[3:])
    chosen = [4, 0, 5]
    copies = store.packs.copy_to_new_pack([keys[number] for number in chosen])
    assert len({pack_of(key) for key in copies}) == 1
    assert {pack_of(key) for key in copies}.isdisjoint({pack_of(key) for key in keys})
    assert [key.rpartition("/")[2] for key in copies] == [keys[number].rpartition("/")[2] for number in chosen]
    assert [content(store, key, len(payloads[number])) for key, number in zip(copies, chosen, strict=True)] == [
        payloads[number] for number in chosen
    ]
    # It is noted until it is committed.
    assert f"pack/{pack_of(copies[0])}" in store.writes.shared.begun


def test_many_copies_take_as_many_packs_as_they_need(make_store: MakeStore) -> None:
    store = make_store()
    payload = os.urandom(3_500_000)
    keys = [packed(store, payload)[0] for _ in range(6)]
    copies = store.packs.copy_to_new_pack(keys)
    assert [sum(pack_of(key) == pack for key in copies) for pack in dict.fromkeys(map(pack_of, copies))] == [4, 2]


def test_a_damaged_payload_is_not_copied_and_nothing_is_left(make_store: MakeStore, raw: RawObjects) -> None:
    store = make_store()
    keys = packed(store, b"intact", b"damaged")
    pack = pack_of(keys[0])
    name = f"p/{pack[:2]}/{pack}"
    raw.put(name, raw.objects()[name].replace(b"damaged", b"damagee"))
    before = set(raw.objects())
    with pytest.raises(PayloadUnreadableError, match=f"CRC32C of payload {keys[1]}"):
        store.packs.copy_to_new_pack(keys)
    with pytest.raises(PayloadMissingError):
        store.packs.copy_to_new_pack([keys[0], f"p{pack}-0-5/{'0' * 32}"])
    with pytest.raises(PayloadMissingError):
        store.packs.copy_to_new_pack(["s1-0-5/" + "0" * 32])
    assert set(raw.objects()) == before


def test_a_deleted_pack_is_gone(make_store: MakeStore, raw: RawObjects) -> None:
    store = make_store()
    (key,), (other,) = packed(store, b"one"), packed(store, b"two")
    for _ in range(2):
        store.packs.delete_pack(pack_of(key))
    # The sweep of what is due has the names of packs, too.
    store.delete(f"pack/{pack_of(other)}")
    assert raw.objects() == {}
    with pytest.raises(PayloadMissingError):
        store.open(key)


def test_a_pack_of_which_nothing_was_committed_is_given_up(make_store: MakeStore, raw: RawObjects) -> None:
    store = make_store()
    keys = ObjectChunkStore.publish(store, [staged(store, b"one"), staged(store, b"two")])
    store.delete(keys[0])
    store.delete(keys[0])
    assert len(raw.objects()) == 1
    store.delete(keys[1])
    assert raw.objects() == {}
    assert store.writes.shared.garbage == [f"pack/{pack_of(keys[0])}"]


def test_a_committed_pack_is_left_to_the_sweep(make_store: MakeStore, raw: RawObjects) -> None:
    store = make_store()
    keys = ObjectChunkStore.publish(store, [staged(store, b"one"), staged(store, b"two")])
    store.writes.shared.commit(keys[:1], store.writes.number)
    for key in keys:
        store.delete(key)
    assert len(raw.objects()) == 1


def test_packs_go_into_quarantine_and_back(make_store: MakeStore, raw: RawObjects) -> None:
    store = make_store()
    (key,) = packed(store, b"payload")
    assert store.quarantine.put(f"pack/{pack_of(key)}", until_s=2e9)
    assert list(store.packs.packs()) == []
    (entry,) = store.quarantine.entries()
    store.quarantine.restore(entry)
    assert [stored.pack for stored in store.packs.packs()] == [pack_of(key)]
    store.quarantine.put(f"pack/{pack_of(key)}", until_s=2e9)
    store.quarantine.delete(store.quarantine.entries()[0])
    assert raw.objects() == {}
    assert not store.quarantine.put(f"pack/{pack_of(key)}", until_s=2e9)


def test_a_part_says_the_key_of_its_payload() -> None:
    _, parts = pack_bytes("ab" * 16, [("cd" * 16, b"payload")])
    assert parts == [PackedPart("ab" * 16, "cd" * 16, 0, 7, parts[0].crc32c)]
    assert parse_key(parts[0].key) == PackedKey("ab" * 16, 0, 7, "cd" * 16)

"""The keys of payloads in an object store."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorus_server.payload_keys import (
    PackedKey,
    SegmentedKey,
    begun_of_key,
    is_of_object_store,
    key_of_begun,
    keys_of_pack,
    parse_key,
)

_names = st.text("0123456789abcdef", min_size=32, max_size=32)
_numbers = st.integers(0, 2**62)


@given(
    st.builds(SegmentedKey, _numbers, _numbers, _numbers, _names)
    | st.builds(PackedKey, _names, _numbers, _numbers, _names)
)
def test_a_key_says_again_what_it_was_made_of(key):
    assert parse_key(str(key)) == key


@given(_names, st.builds(PackedKey, _names, _numbers, _numbers, _names))
def test_the_bounds_of_a_pack_contain_its_keys_and_no_others(pack, key):
    first, end = keys_of_pack(pack)
    assert (first <= str(key) < end) == (key.pack == pack)
    first, end = keys_of_pack(key.pack)
    assert first <= str(key) < end


@pytest.mark.parametrize("key", ["", "ab/" + "0" * 32, "s1-2/" + "0" * 32, "p" + "0" * 31 + "-1-2/" + "0" * 32, "x/y"])
def test_other_keys_are_not_of_an_object_store(key):
    assert parse_key(key) is None


@given(
    st.builds(SegmentedKey, _numbers, _numbers, _numbers, _names)
    | st.builds(PackedKey, _names, _numbers, _numbers, _names)
)
def test_the_object_of_a_key_is_begun_and_deleted_under_names_of_its_own(key):
    begun = begun_of_key(str(key))
    assert begun == (f"pack/{key.pack}" if isinstance(key, PackedKey) else key.payload_key)
    assert begun_of_key(key_of_begun(begun)).rpartition("/")[2] == begun.rpartition("/")[2]
    assert is_of_object_store(key_of_begun(begun))
    assert is_of_object_store(str(key))


@pytest.mark.parametrize("key", ["", "0" * 32, "f" * 32, "ff/" + "f" * 32])
def test_keys_of_a_local_store_are_told_apart(key):
    assert not is_of_object_store(key)

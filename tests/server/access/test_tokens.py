"""Tokens: random, recognizable, and stored as a hash."""

from __future__ import annotations

import hashlib
import inspect

from support.cases import each
from tensorus_server.access import tokens
from tensorus_server.access.tokens import Token, id_of, is_secret_of, new_token


def stored(made: tokens.NewToken, **fields: object) -> Token:
    values = {
        "id": made.id,
        "principal": "token:a",
        "note": "",
        "digest": made.digest,
        "created_us": 0,
        "expires_us": None,
    }
    return Token(**(values | fields))  # type: ignore[arg-type]


def test_a_token_proves_itself_and_no_other() -> None:
    made, other = new_token(), new_token()
    assert made.secret != other.secret
    assert id_of(made.secret) == made.id
    assert is_secret_of(stored(made), made.secret)
    assert not is_secret_of(stored(made), other.secret)
    # The right id with another secret.
    assert not is_secret_of(stored(made), f"tns_{made.id}_{other.secret.rpartition('_')[2]}")


def test_what_is_stored_is_a_hash() -> None:
    made = new_token()
    assert made.digest == hashlib.sha256(made.secret.encode()).digest()
    assert made.secret.rpartition("_")[2] not in repr(stored(made))


def test_the_comparison_takes_the_same_time_for_every_text() -> None:
    assert "hmac.compare_digest(" in inspect.getsource(is_secret_of)


@each(
    "text",
    [
        "",
        "tns_",
        "tns_0123456789abcdef_",
        "x" * 65,
        "tns_0123456789abcdeg_" + "a" * 43,
        "Bearer x",
        "tns_\n_" + "a" * 43,
    ],
)
def test_what_has_not_the_form_of_a_token_has_no_id(text: str) -> None:
    assert id_of(text) is None


def test_a_token_is_valid_until_it_expires_or_is_revoked() -> None:
    made = new_token()
    assert stored(made).is_valid(2**62)
    assert stored(made, expires_us=10).is_valid(9)
    assert not stored(made, expires_us=10).is_valid(10)
    assert not stored(made, revoked_us=1).is_valid(0)

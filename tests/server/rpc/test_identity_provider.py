"""Tokens of an identity provider: who they stand for, which are refused, and how often its keys are fetched."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from support.cases import each
from support.issuer import AUDIENCE, Issuer, issuer
from tensorus_server.access.rights import Caller
from tensorus_server.errors import UnauthenticatedError
from tensorus_server.rpc import identity_provider as module
from tensorus_server.rpc.identity_provider import IdentityProvider


@pytest.fixture(scope="module")
def shared() -> Iterator[Issuer]:
    with issuer() as found:
        yield found


@pytest.fixture
def own() -> Iterator[Issuer]:
    """Yield an issuer that the test may change."""
    with issuer() as found:
        yield found


@pytest.fixture
def go(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return a function that lets time pass for the provider."""
    ahead_s = [0.0]
    real = time.monotonic
    monkeypatch.setattr(module.time, "monotonic", lambda: real() + ahead_s[0])

    def pass_time(seconds: float) -> None:
        ahead_s[0] += seconds

    return pass_time


def provider_of(found: Issuer) -> IdentityProvider:
    return IdentityProvider(found.url, AUDIENCE)


def test_a_token_stands_for_its_subject_and_its_groups(shared: Issuer) -> None:
    provider = provider_of(shared)
    assert provider(shared.token()) == Caller("oidc:alice")
    assert provider(shared.token(groups=["ml", "ops"])) == Caller("oidc:alice", ("group:ml", "group:ops"))


def test_a_token_is_verified_once(shared: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    provider, token = provider_of(shared), shared.token()
    assert provider(token) == provider(token)
    monkeypatch.setattr(module.jwt, "decode", None)
    assert provider(token) == Caller("oidc:alice")


def test_a_remembered_token_is_verified_again_once_it_has_expired(
    shared: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider, token = provider_of(shared), shared.token()
    provider(token)

    def expired(*_: object, **__: object) -> None:
        raise jwt.ExpiredSignatureError

    monkeypatch.setattr(module.jwt, "decode", expired)
    provider(token)
    monkeypatch.setattr(module.time, "time", lambda real=time.time: real() + 120)
    with pytest.raises(UnauthenticatedError, match="has expired"):
        provider(token)


REFUSED: dict[str, Callable[[Issuer], str]] = {
    "expired": lambda found: found.token(exp=time.time() - 60),
    "without an expiry": lambda found: found.token(exp=None),
    "of another audience": lambda found: found.token(aud="elsewhere"),
    "of several other audiences": lambda found: found.token(aud=["a", "b"]),
    "without an audience": lambda found: found.token(aud=None),
    "of another issuer": lambda found: found.token(iss="https://elsewhere"),
    "without a subject": lambda found: found.token(sub=None),
    "not valid yet": lambda found: found.token(nbf=time.time() + 120),
    "signed with another key": lambda found: found.token(key=ec.generate_private_key(ec.SECP256R1())),
    "of an unknown key": lambda found: found.token(kid="unknown"),
    "of no key": lambda found: found.token(kid=None),
    "unsigned": lambda found: found.token(algorithm="none", key=""),
    "with a shared secret": lambda found: found.token(algorithm="HS256", key="s" * 32),
    "with another algorithm than the key": lambda found: found.token(
        algorithm="RS256", key=rsa.generate_private_key(65537, 2048)
    ),
    "with a name that cannot be a principal": lambda found: found.token("a\nb"),
    "with too long a name": lambda found: found.token("n" * 300),
    "with too many groups": lambda found: found.token(groups=[f"g{number}" for number in range(65)]),
    "no token": lambda _: "a.b.c",
    "nothing": lambda _: "",
    "text that is not ASCII": lambda _: "ä.ö.ü",
}


@each("make", list(REFUSED.values()))
def test_what_does_not_hold_is_refused_without_repeating_it(shared: Issuer, make: Callable[[Issuer], str]) -> None:
    token = make(shared)
    with pytest.raises(UnauthenticatedError) as caught:
        provider_of(shared)(token)
    assert not token or token not in str(caught.value)


def test_the_public_key_is_no_shared_secret(shared: Issuer) -> None:
    (key_id, key), *_ = shared.keys.items()
    pem = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    # PyJWT itself refuses to sign with it, so this is made by hand.
    claims = jwt.decode(shared.token(), options={"verify_signature": False})
    signer = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    head = jwt.utils.base64url_encode(f'{{"alg":"HS256","typ":"JWT","kid":"{key_id}"}}'.encode())
    body = jwt.utils.base64url_encode(json.dumps(claims).encode())
    signature = jwt.utils.base64url_encode(signer.sign(head + b"." + body, pem))
    with pytest.raises(UnauthenticatedError):
        provider_of(shared)(b".".join((head, body, signature)).decode())


def test_a_new_key_is_fetched_when_a_token_names_it(own: Issuer, go: Callable[[float], None]) -> None:
    provider = provider_of(own)
    old = own.token()
    provider(old)
    own.rotate()
    new = own.token()
    go(11)
    assert provider(new) == Caller("oidc:alice")
    # The old key is withdrawn: what was verified with it counts for no longer than a key does.
    assert provider(old) == Caller("oidc:alice")
    go(301)
    with pytest.raises(UnauthenticatedError):
        provider(old)


def test_unknown_keys_do_not_make_the_server_ask_without_end(own: Issuer, go: Callable[[float], None]) -> None:
    provider = provider_of(own)
    for number in range(20):
        with pytest.raises(UnauthenticatedError, match="no such key"):
            provider(own.token(kid=f"unknown-{number}"))
    assert own.fetches == 1
    go(11)
    with pytest.raises(UnauthenticatedError, match="no such key"):
        provider(own.token(kid="unknown"))
    assert own.fetches == 2


def test_while_the_issuer_is_away_known_keys_count_for_a_while(own: Issuer, go: Callable[[float], None]) -> None:
    provider = provider_of(own)
    provider(own.token())
    own.metadata = {"issuer": "https://elsewhere"}
    go(301)
    assert provider(own.token()) == Caller("oidc:alice")
    go(300)
    with pytest.raises(UnauthenticatedError, match="cannot be fetched"):
        provider(own.token())


def test_what_is_remembered_is_bounded(shared: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_VERIFIED_MAX", 2)
    provider = provider_of(shared)
    for name in ("a", "b", "c"):
        provider(shared.token(name))
    assert [caller.principal for caller, *_ in provider._verified.values()] == ["oidc:b", "oidc:c"]


@each("url", ["http://login.example.com", "login.example.com", "file:///etc/passwd", "https://", ""])
def test_an_issuer_without_tls_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="must begin with https://"):
        IdentityProvider(url, AUDIENCE)


def test_keys_elsewhere_without_tls_are_not_fetched(own: Issuer) -> None:
    own.metadata["jwks_uri"] = "http://keys.example.com/keys"
    with pytest.raises(UnauthenticatedError):
        provider_of(own)(own.token())
    assert own.fetches == 0

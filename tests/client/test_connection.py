"""How a server is reached: addresses, certificates, tokens, and where each of these comes from."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tensorus
import tensorus.aio
from support.cases import each
from support.certificates import Authority
from tensorus import _connection
from tensorus._connection import Connection, Tls, TokenFile, is_loopback, parsed_address
from tensorus._profiles import Settings, checked_arguments, config_path, connection_of

SECRET = "s3cr3t-token"
PAIR = Authority.shared().pair("client")


def connection(address: str | None = None, *, profile: str | None = None, **settings: Any) -> Connection:
    names = ("ca", "cert", "key", "token")
    given = {name: settings.pop(name, None) for name in names}
    return connection_of(checked_arguments(address, **given, insecure=settings.pop("insecure", False)), profile=profile)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Write the file of profiles."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))

    def written(text: str, mode: int = 0o600) -> Path:
        path = tmp_path / "tensorus" / "config.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return path

    return written


# ---- Addresses ----------------------------------------------------------------------------------------------------------


@each(
    ("address", "expected"),
    [
        ("host:7733", ("host:7733", False)),
        ("grpc://host:7733", ("host:7733", False)),
        ("grpcs://host:7733/", ("host:7733", True)),
        ("GRPCS://a:1,b:2", ("a:1,b:2", True)),
        ("grpcs://a:1, grpcs://b:2", ("a:1,b:2", True)),
        ("grpcs://[::1]:7733", ("[::1]:7733", True)),
        ("ipv4:127.0.0.1:1,127.0.0.1:2", ("ipv4:127.0.0.1:1,127.0.0.1:2", False)),
        ("dns:///name:7733", ("dns:///name:7733", False)),
    ],
)
def test_an_address_may_have_a_scheme(address: str, expected: tuple[str, bool]) -> None:
    assert parsed_address(address) == expected


@each(
    ("address", "message"),
    [
        ("https://host:7733", "the address has the scheme https://, must be grpcs://"),
        ("grpcs://a:1,grpc://b:1", "different schemes"),
        ("a:1,grpcs://b:1", "different schemes"),
    ],
)
def test_other_schemes_are_refused(address: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tensorus.connect(address)


def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(ValueError, match="has a user name; tokens are passed as token=") as caught:
        tensorus.connect(f"grpcs://user:{SECRET}@host:7733")
    assert SECRET not in str(caught.value)


@each(
    ("address", "expected"),
    [
        ("localhost:1", True),
        ("127.0.0.1:1", True),
        ("127.8.8.8:1,[::1]:2", True),
        ("ipv4:127.0.0.1:1,127.0.0.1:2", True),
        ("unix:/run/x.sock", True),
        ("dns:///localhost:1", True),
        ("127.0.0.1:1,10.0.0.1:1", False),
        ("ipv4:127.0.0.1:1,10.0.0.1:2", False),
        ("127.0.0.1.evil.test:1", False),
        ("localhost.evil.test:1", False),
        ("dns://10.0.0.1/localhost:1", False),
        ("0.0.0.0:1", False),
        ("host:1", False),
    ],
)
def test_only_addresses_of_this_machine_are_loopback(address: str, *, expected: bool) -> None:
    assert is_loopback(address) is expected


# ---- Certificates -------------------------------------------------------------------------------------------------------


def test_certificates_are_paths_or_bytes(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(Authority.shared().cert)
    found = connection("grpcs://h:1", ca=tmp_path / "ca.pem", cert=PAIR.cert, key=PAIR.key)
    assert found.tls is not None
    assert found.tls.read() == (Authority.shared().cert, PAIR.cert, PAIR.key)
    assert pickle.loads(pickle.dumps(found)) == found
    assert str(found) == "grpcs://h:1"


@each(
    ("address", "settings", "message"),
    [
        ("grpcs://h:1", {"ca": "/nowhere/ca.pem"}, "ca is '/nowhere/ca.pem', which cannot be read: No such file"),
        ("grpcs://h:1", {"ca": b"\x30\x82"}, "ca has 2 bytes, which is not PEM"),
        ("grpcs://h:1", {"cert": PAIR.cert}, "cert is given without key"),
        ("grpcs://h:1", {"key": PAIR.key}, "key is given without cert"),
        ("h:1", {"ca": PAIR.cert}, "ca is given .argument., but the address h:1 is without TLS; use grpcs://"),
        ("grpc://h:1", {"cert": PAIR.cert, "key": PAIR.key}, "cert is given .* is without TLS"),
    ],
)
def test_an_error_names_the_argument(address: str, settings: dict[str, Any], message: str) -> None:
    for connect in (tensorus.connect, tensorus.aio.connect):
        with pytest.raises(ValueError, match=message) as caught:
            connect(address, **settings)
        assert "PRIVATE" not in str(caught.value)


def test_a_number_is_no_path() -> None:
    with pytest.raises(TypeError, match="ca is a int, must be a path or the bytes of a PEM file"):
        tensorus.connect("grpcs://h:1", ca=3)  # type: ignore[arg-type]


def test_the_state_of_certificates_changes_with_a_file(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.write_bytes(b"one")
    tls = Tls(ca=str(path), cert=b"-", key=b"-")
    before = tls.state()
    assert tls.state() == before
    path.write_bytes(b"another")
    after = tls.state()
    assert after != before
    path.unlink()
    assert tls.state() not in (before, after)


# ---- Tokens -------------------------------------------------------------------------------------------------------------


def test_a_token_is_sent_as_a_bearer() -> None:
    assert connection("localhost:1", token=SECRET).metadata("id") == (
        ("x-request-id", "id"),
        ("authorization", f"Bearer {SECRET}"),
    )
    assert connection("localhost:1").metadata("id") == (("x-request-id", "id"),)


def test_a_function_is_asked_for_each_call() -> None:
    tokens = iter(["one", "two", "three four"])
    found = connection("localhost:1", token=lambda: next(tokens))
    assert [found.metadata("id")[1][1] for _ in range(2)] == ["Bearer one", "Bearer two"]
    with pytest.raises(ValueError, match="the token has 10 characters, must be printable ASCII") as caught:
        found.metadata("id")
    assert "three" not in str(caught.value)
    with pytest.raises(TypeError, match="the token is a NoneType"):
        connection("localhost:1", token=lambda: None).metadata("id")


@each("token", ["", "two words", "xyzzy\n", "ü", "x\x00"])
def test_what_cannot_be_a_token_is_refused_without_showing_it(token: str) -> None:
    with pytest.raises(ValueError, match=f"the token has {len(token)} characters") as caught:
        tensorus.connect("localhost:1", token=token)
    assert not token.strip() or token.strip() not in str(caught.value)


@each("address", ["host:1", "grpc://10.0.0.1:1", "localhost:1,host:1"])
def test_a_token_is_not_sent_in_clear_text(address: str) -> None:
    with pytest.raises(
        ValueError, match=r"the token .argument. would be sent in clear text to .*grpcs://.*insecure=True"
    ) as e:
        tensorus.connect(address, token=SECRET)
    assert SECRET not in str(e.value)
    assert connection(address, token=SECRET, insecure=True).token == SECRET
    assert connection(f"grpcs://{address.removeprefix('grpc://')}", token=SECRET).token == SECRET


def test_no_repr_shows_a_secret() -> None:
    found = connection("grpcs://h:1", token=SECRET, ca=b"-----BEGIN CA-----", cert=PAIR.cert, key=PAIR.key)
    settings = Settings("argument", token=SECRET, key=PAIR.key)
    client = tensorus.connect("grpcs://h:1", token=SECRET)
    for value in (found, found.tls, settings, client, client._backend, client._backend.connection):  # type: ignore[attr-defined]
        assert SECRET not in f"{value!r} {value!s}"
        assert "BEGIN" not in f"{value!r} {value!s}"
    assert pickle.loads(pickle.dumps(client))._backend.connection.token == SECRET


def test_the_token_of_a_file_follows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "token"
    path.write_text("one\n")
    token = TokenFile(path)
    path.write_text("other\n")
    assert token() == "one", "it is not looked at for every call"
    monkeypatch.setattr(_connection, "_LOOK_AGAIN_S", 0.0)
    assert token() == "other"
    assert pickle.loads(pickle.dumps(token))() == "other"
    path.write_text("two words")
    assert token() == "other"
    path.unlink()
    assert token() == "other"
    path.write_text("last")
    assert token() == "last"


# ---- The environment and profiles ---------------------------------------------------------------------------------------


def test_without_anything_it_is_the_default_address() -> None:
    assert connection() == Connection("127.0.0.1:7733")


def test_an_argument_counts_more_than_the_environment_and_that_more_than_the_file(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write('address = "file:1"')
    assert connection().address == "file:1"
    monkeypatch.setenv("TENSORUS_SERVER", "old:1")
    assert connection().address == "old:1"
    monkeypatch.setenv("TENSORUS_ADDRESS", "environment:1")
    assert connection().address == "environment:1"
    assert connection("argument:1").address == "argument:1"


PROFILES = """
address = "localhost:1"
token = "of-the-top"

[profiles.prod]
address = "grpcs://prod:1"
token = "of-prod"

[profiles.anywhere]
token = "of-anywhere"
"""


def test_a_profile_is_named_by_an_argument_or_the_environment(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(PROFILES)
    assert connection() == Connection("localhost:1", token="of-the-top")
    assert connection(profile="prod") == Connection("prod:1", Tls(), "of-prod")
    monkeypatch.setenv("TENSORUS_PROFILE", "prod")
    assert connection().token == "of-prod"
    # An argument counts more than every variable.
    monkeypatch.setenv("TENSORUS_ADDRESS", "localhost:9")
    assert (connection().address, connection().token) == ("localhost:9", None)
    assert connection(profile="prod").token == "of-prod"


def test_a_token_goes_to_no_address_but_its_own(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    write(PROFILES)
    assert connection("grpcs://elsewhere:1").token is None
    assert connection("grpcs://localhost:1").token is None, (
        "the certificate may be anybody's, but this is another address"
    )
    assert connection("grpc://localhost:1").token == "of-the-top"
    with pytest.raises(
        ValueError, match="the profile 'prod' is of grpcs://prod:1, but the address grpcs://elsewhere:1"
    ):
        connection("grpcs://elsewhere:1", profile="prod")
    monkeypatch.setenv("TENSORUS_PROFILE", "prod")
    assert connection("grpcs://elsewhere:1").token is None
    # A token that belongs to no address goes to the one that is given.
    monkeypatch.setenv("TENSORUS_PROFILE", "anywhere")
    assert connection("grpcs://elsewhere:1").token == "of-anywhere"
    monkeypatch.setenv("TENSORUS_TOKEN", "of-environment")
    assert connection("grpcs://elsewhere:1").token == "of-environment"
    monkeypatch.setenv("TENSORUS_ADDRESS", "grpcs://mine:1")
    assert connection("grpcs://elsewhere:1").token == "of-anywhere"
    assert connection("grpcs://mine:1").token == "of-environment"
    assert connection("grpcs://elsewhere:1", token="argument").token == "argument"


def test_with_several_servers_only_settings_of_an_address_are_used(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(PROFILES)
    monkeypatch.setenv("TENSORUS_TOKEN", "of-environment")
    found = [connection_of(Settings("argument", address), is_sole=False) for address in ("grpcs://b:1", "localhost:1")]
    assert [one.token for one in found] == [None, "of-the-top"]


def test_of_several_servers_a_named_profile_has_its_own_settings_alone(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write('[profiles.a]\naddress = "grpcs://a:1"\n[profiles.b]\ntoken = "of-b"\n')
    monkeypatch.setenv("TENSORUS_TOKEN", "of-environment")
    found = [connection_of(Settings("argument"), profile=name, is_sole=False) for name in ("a", "b")]
    assert [one.token for one in found] == [None, "of-b"]
    assert connection_of(Settings("argument"), profile="a").token == "of-environment"


def test_certificates_come_from_the_environment_and_a_pair_from_one_place(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write('address = "grpcs://h:1"\nca = "ca.pem"\ncert = "c.pem"\nkey = "k.pem"\ntoken_file = "token"').parent
    for name, content in (("ca", PAIR.cert), ("c", PAIR.cert), ("k", PAIR.key)):
        (folder / f"{name}.pem").write_bytes(content)
    (folder / "token").write_text("of-file")
    found = connection()
    assert found.tls == Tls(str(folder / "ca.pem"), str(folder / "c.pem"), str(folder / "k.pem"))
    assert found.metadata("id")[1] == ("authorization", "Bearer of-file")
    monkeypatch.setenv("TENSORUS_CERT", str(folder / "c.pem"))
    with pytest.raises(ValueError, match="cert is given without key"):
        connection()
    monkeypatch.delenv("TENSORUS_CERT")
    # Of no address: only used with TLS.
    monkeypatch.setenv("TENSORUS_CA", str(folder / "ca.pem"))
    assert connection("localhost:1").tls is None


@each(
    ("text", "message"),
    [
        ('adress = "h:1"', "unknown key 'adress'; did you mean 'address'?"),
        ('profile = "x"', "unknown key 'profile'; did you mean 'profiles'?"),
        ('[profiles.prod]\ntokn = "x"', r"\[profiles.prod\] has the unknown key 'tokn'; did you mean 'token'?"),
        ("[profiles]\nprod = 3", "profiles.prod must be a table"),
        ("profiles = 3", "profiles must be tables"),
        ("token = 3", "token must be text that is not empty"),
        ('address = ""', "address must be text that is not empty"),
        ('insecure = "yes"', "insecure must be true or false"),
        (f'token = "{SECRET} x"', "the top of .*: the token has 14 characters"),
        (f'token = "{SECRET}"\ntoken_file = "t"', "has both token and token_file"),
        ('token_file = "nowhere"', "token file '.*nowhere' cannot be read: No such file"),
        (f'token = "{SECRET}', "config.toml is no TOML"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(write: Callable[..., Path], text: str, message: str) -> None:
    write(text)
    with pytest.raises(ValueError, match=message) as caught:
        connection("localhost:1")
    assert SECRET not in str(caught.value)


def test_a_profile_that_is_not_there_is_an_error(write: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match=r"profile 'prod': .* cannot be read: No such file"):
        connection(profile="prod")
    write(PROFILES)
    with pytest.raises(ValueError, match=r"there is no profile 'prd' in .*config.toml; did you mean 'prod'\?"):
        connection(profile="prd")


@pytest.mark.skipif(os.name != "posix", reason="other systems have no modes")
def test_a_token_that_others_can_read_is_warned_of(write: Callable[..., Path]) -> None:
    path = write(PROFILES, mode=0o644)
    with pytest.warns(
        UserWarning, match=re.escape(f"{path} has a token, and others can read it (mode 0644)")
    ) as caught:
        tensorus.connect()
    assert caught[0].filename == __file__
    assert "of-the-top" not in str(caught[0].message)
    write('address = "h:1"', mode=0o644)
    connection()


def test_a_file_that_is_somebody_elses_is_none(monkeypatch: pytest.MonkeyPatch, write: Callable[..., Path]) -> None:
    write(PROFILES)

    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert connection("localhost:2").address == "localhost:2"
    with pytest.raises(ValueError, match="cannot be read: Permission denied"):
        connection(profile="prod")


def test_the_file_is_where_xdg_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "/somewhere")
    assert config_path() == Path("/somewhere/tensorus/config.toml")
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert config_path() == Path("/home/someone/.config/tensorus/config.toml")

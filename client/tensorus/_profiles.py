"""Where the settings of a connection come from: arguments, environment variables, and profiles in a file.

    argument  >  profile that an argument names  >  environment  >  other profile  >  default

Credentials belong to an address. A source that names an address gives its other settings to that address alone; a source that
names none gives them to whatever address the others lead to. So a token never goes to a server that it was not written down
for, whatever address a command names. See docs/adr/0055-connections.md.
"""

from __future__ import annotations

import difflib
import os
import stat
import tomllib
import warnings
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tensorus._connection import (
    DEFAULT_ADDRESS,
    Connection,
    Tls,
    TokenFile,
    checked_token,
    is_loopback,
    parsed_address,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from tensorus._connection import (
        Pem,
        Token,
    )

__all__ = ["Settings", "config_path", "connection_of"]

_PATHS = frozenset({"ca", "cert", "key", "token_file"})
"""Keys of the file that are paths, relative to its folder."""


@dataclass(frozen=True)
class Settings:
    """What one source says about a connection; None: nothing."""

    source: str
    """Named in messages, such as "the profile 'team'"."""
    address: str | None = None
    ca: Pem | None = None
    cert: Pem | None = field(default=None, repr=False)
    key: Pem | None = field(default=None, repr=False)
    token: Token | None = field(default=None, repr=False)
    token_file: str | None = None
    insecure: bool | None = None
    """Whether a token may be sent in clear text."""

    def current_token(self) -> Token | None:
        """Return the token, or one that follows its file.

        Raises:
            ValueError: there are both, or the file has none.
        """
        if self.token is not None and self.token_file is not None:
            raise ValueError(f"{self.source} has both token and token_file")
        return self.token if self.token_file is None else TokenFile(self.token_file)


KEYS = tuple(found.name for found in fields(Settings) if found.name != "source")


def config_path() -> Path:
    """Return the path of the file with the profiles, which need not exist."""
    folder = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")  # noqa: PTH111, PTH118 - never fails
    return Path(folder) / "tensorus" / "config.toml"


def connection_of(
    arguments: Settings, *, profile: str | None = None, is_sole: bool = True, warn: Callable[[str], None] | None = None
) -> Connection:
    """Return the connection that arguments, environment and profile describe together.

    Args:
        profile: name of a profile; None: what TENSORUS_PROFILE names, or else the keys at the top of the file.
        is_sole: False: the caller connects to several servers, so settings that belong to no address are not used, but for
            those of `profile`.
        warn: called if others can read a token in the file; None: `warnings.warn`.

    Raises:
        ValueError: what they say is wrong or contradictory; the message names the argument, variable or key.
        TypeError: an argument has a wrong type.
    """
    environment = _from_environment()
    named = profile or os.environ.get("TENSORUS_PROFILE") or None
    chosen = _from_file(named, warn or _warn)
    if profile is not None and arguments.address is not None and not _belongs(chosen, arguments.address):
        raise ValueError(
            f"{chosen.source} is of {chosen.address}, but the address {arguments.address} is given too; give one of them"
        )
    rest = [environment, chosen] if profile is None else [chosen, environment]
    address = next((found.address for found in (arguments, *rest) if found.address is not None), DEFAULT_ADDRESS)
    own = {arguments.source} if profile is None else {arguments.source, chosen.source}
    fit = [arguments, *(found for found in rest if _belongs(found, address))]
    return _joined(address, [found for found in fit if is_sole or found.address is not None or found.source in own])


def _joined(address: str, used: Iterable[Settings]) -> Connection:
    """Return the connection to an address by the settings that belong to it, the most important ones first."""
    target, is_tls = parsed_address(address)
    tls, token, token_source, insecure = Tls(), None, "", None
    has_ca = has_pair = False
    for found in used:
        certificates = [name for name in ("ca", "cert", "key") if getattr(found, name) is not None]
        if certificates and not is_tls and (found.address is not None or found.source == "argument"):
            raise ValueError(
                f"{certificates[0]} is given ({found.source}), but the address {address} is without TLS; use grpcs://"
            )
        if not has_ca and found.ca is not None:
            tls, has_ca = replace(tls, ca=found.ca), True
        if not has_pair and (found.cert is not None or found.key is not None):
            tls, has_pair = replace(tls, cert=found.cert, key=found.key), True
        if token is None and (token := found.current_token()) is not None:
            token_source = found.source
        insecure = found.insecure if insecure is None else insecure
    if token is not None and not (is_tls or insecure or is_loopback(target)):
        raise ValueError(
            f"the token ({token_source}) would be sent in clear text to {address}: use grpcs://, or insecure=True in a network "
            "in which you trust every host"
        )
    if is_tls:
        # Said now rather than at the first call.
        tls.read()
    return Connection(target, tls if is_tls else None, token)


def checked_arguments(
    address: str | None,
    *,
    ca: str | os.PathLike[str] | bytes | None,
    cert: str | os.PathLike[str] | bytes | None,
    key: str | os.PathLike[str] | bytes | None,
    token: Token | None,
    insecure: bool,
) -> Settings:
    """Return what the arguments of `tensorus.connect` say.

    Raises:
        ValueError: the token cannot be sent.
        TypeError: an argument has a wrong type.
    """
    if token is not None and not callable(token):
        token = checked_token(token)
    return Settings(
        "argument",
        address,
        _pem_argument("ca", ca),
        _pem_argument("cert", cert),
        _pem_argument("key", key),
        token,
        insecure=insecure or None,
    )


def _pem_argument(name: str, given: str | os.PathLike[str] | bytes | None) -> Pem | None:
    if given is None or isinstance(given, bytes):
        return given
    if not isinstance(given, (str, os.PathLike)):
        raise TypeError(f"{name} is a {type(given).__name__}, must be a path or the bytes of a PEM file")
    return os.path.expanduser(os.fspath(given))  # noqa: PTH111 - it stays text


def _belongs(settings: Settings, address: str) -> bool:
    """Return whether settings may be used with an address."""
    return settings.address is None or _canonical(settings.address) == _canonical(address)


def _canonical(address: str) -> tuple[frozenset[str], bool]:
    target, is_tls = parsed_address(address)
    return frozenset(part.strip().lower() for part in target.split(",")), is_tls


def _from_environment() -> Settings:
    get = os.environ.get
    token = get("TENSORUS_TOKEN") or None
    if token is not None:
        try:
            token = checked_token(token.strip())
        except ValueError as error:
            raise ValueError(f"TENSORUS_TOKEN: {error}") from None
    ca, cert, key = (get(f"TENSORUS_{name}") or None for name in ("CA", "CERT", "KEY"))
    # TENSORUS_SERVER is the old name.
    address = get("TENSORUS_ADDRESS") or get("TENSORUS_SERVER") or None
    return Settings("environment", address, ca, cert, key, token)


def _from_file(name: str | None, warn: Callable[[str], None]) -> Settings:
    """Return a profile.

    Args:
        name: None: the keys at the top of the file.

    Raises:
        ValueError: there is no such profile, or the file is wrong.
    """
    path = config_path()
    try:
        content = path.read_bytes()
    except OSError as error:
        # Without a file there are no profiles; one that this user must not read is somebody else's.
        if name is None and isinstance(error, (FileNotFoundError, NotADirectoryError, PermissionError)):
            return Settings("no profile")
        raise ValueError(f"profile {name!r}: {path} cannot be read: {error.strerror or error}") from error
    try:
        table = tomllib.loads(content.decode())
    except ValueError as error:
        raise ValueError(f"{path} is no TOML: {error}") from error
    profiles = table.pop("profiles", {})
    if not isinstance(profiles, dict):
        raise ValueError(f"{path}: profiles must be tables, [profiles.NAME]")  # noqa: TRY004 - the file's error
    for other, found in profiles.items():
        if not isinstance(found, dict):
            raise ValueError(f"{path}: profiles.{other} must be a table, [profiles.{other}]")  # noqa: TRY004 - likewise
        _check_keys(found, f"{path}: [profiles.{other}]")
    _check_keys(table, str(path), also=("profiles",))
    if any("token" in found for found in (table, *profiles.values())):
        _check_mode(path, warn)
    if name is None:
        return _settings(table, f"the top of {path}", path.parent)
    if name not in profiles:
        raise ValueError(f"there is no profile {name!r} in {path}{_near(name, profiles)}")
    return _settings(profiles[name], f"the profile {name!r}", path.parent)


def _check_keys(table: Mapping[str, Any], where: str, also: tuple[str, ...] = ()) -> None:
    """Check keys and types of a table of the file. `Any`: TOML.

    Raises:
        ValueError: a key is unknown, or a value has a wrong type.
    """
    for key, value in table.items():
        if key not in KEYS:
            raise ValueError(f"{where} has the unknown key {key!r}{_near(key, (*KEYS, *also))}")
        wanted = bool if key == "insecure" else str
        if not isinstance(value, wanted) or value == "":
            kind = "true or false" if wanted is bool else "text that is not empty"
            raise ValueError(f"{where}: {key} must be {kind}")


def _settings(table: Mapping[str, Any], source: str, folder: Path) -> Settings:
    found: dict[str, Any] = {
        key: str(folder / Path(value).expanduser()) if key in _PATHS else value for key, value in table.items()
    }
    if "token" in found:
        try:
            checked_token(found["token"])
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from None
    return Settings(source, **found)


def _near(name: str, known: Iterable[str]) -> str:
    """Return how a message about an unknown name goes on."""
    names = sorted(known)
    if near := difflib.get_close_matches(name, names, n=1):
        return f"; did you mean {near[0]!r}?"
    return f"; there are {', '.join(names)}" if names else ""


def _check_mode(path: Path, warn: Callable[[str], None]) -> None:
    """Warn if others can read the file."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if os.name == "posix" and mode & 0o077:
        warn(f"{path} has a token, and others can read it (mode {mode:04o}): chmod 600 {path}")


def _warn(text: str) -> None:
    # Of the caller of `tensorus.connect`.
    warnings.warn(text, UserWarning, stacklevel=6)

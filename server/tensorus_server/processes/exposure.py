"""The rule that keeps a server without TLS or authentication on its own machine."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tensorus_server.config import ServerConfig

__all__ = ["is_loopback", "refusal_to_start", "settled"]


def settled(config: ServerConfig) -> ServerConfig:
    """Return the settings with the decision whether callers are authenticated, if they leave it open.

    Whoever is on this machine is trusted, like whoever can open the folder. On a network, callers must say who they are.
    """
    if config.authenticates is not None:
        return config
    # An identity provider is for nothing else.
    asks = config.oidc_issuer is not None or not (config.insecure or is_loopback(_host_of(config)))
    return replace(config, authenticates=asks)


def refusal_to_start(config: ServerConfig) -> str | None:
    """Return why a server must not start with these settings, and what to do; None: it may."""
    has_tls = config.tls is not None
    # Who cannot connect without a certificate is known by it.
    has_client_ca = config.tls is not None and config.tls.client_ca is not None
    authenticates = bool(config.authenticates) or has_client_ca
    if config.insecure or (has_tls and authenticates) or is_loopback(_host_of(config)):
        return None
    lacks = [name for name, has in (("TLS", has_tls), ("authentication", authenticates)) if not has]
    remedies = [
        *(() if has_tls else ("add --tls-cert and --tls-key, which `tensorus tls self-signed` makes for a first try",)),
        *(() if authenticates else ("drop --no-auth, so that callers need a token",)),
        "listen on 127.0.0.1",
        "pass --insecure if every host on the network may read and change everything",
    ]
    advice = f"{'; '.join(remedies[:-1])}; or {remedies[-1]}"
    return f"listening on {config.listen} without {' and '.join(lacks)} exposes the store: {advice}"


def _host_of(config: ServerConfig) -> str:
    return config.listen.rpartition(":")[0]


def is_loopback(host: str) -> bool:
    """Whether a host is reachable only from this machine: an address of the loopback interface, or localhost.

    Any spelling of an address counts ("127.1", "[::1]"). The only name is localhost, if it resolves to such addresses alone:
    what other names resolve to may differ when gRPC resolves them again.
    """
    name = host.removeprefix("[").removesuffix("]")
    flags = 0 if name.lower() == "localhost" else socket.AI_NUMERICHOST
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM, flags=flags)
    except (OSError, UnicodeError):
        return False
    return bool(found) and all(_is_loopback_address(str(address[0])) for *_, address in found)


def _is_loopback_address(text: str) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback

"""The rule that keeps a server without TLS or authentication on its own machine."""

from __future__ import annotations

import ipaddress
import socket

__all__ = ["is_loopback", "refusal_to_start"]


def refusal_to_start(listen: str, *, tls: bool, authenticates: bool, insecure: bool) -> str | None:
    """Return why a server must not start with these settings, and what to do; None: it may.

    Args:
        listen: HOST:PORT.
        tls: whether its connections are encrypted.
        authenticates: whether it knows its clients, by tokens or by their certificates.
        insecure: whether the operator wants it anyway.
    """
    if insecure or (tls and authenticates) or is_loopback(listen.rpartition(":")[0]):
        return None
    lacks = [name for name, has in (("TLS", tls), ("authentication", authenticates)) if not has]
    remedies = [
        *(() if tls else ("add --tls-cert and --tls-key",)),
        *(() if authenticates else ("add --tls-client-ca, so that only clients with a certificate connect",)),
        "listen on 127.0.0.1",
        f"pass --insecure if every host on the network may {'see the traffic' if authenticates else 'do everything'}",
    ]
    advice = f"{'; '.join(remedies[:-1])}; or {remedies[-1]}"
    return f"listening on {listen} without {' and '.join(lacks)} exposes the store: {advice}"


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

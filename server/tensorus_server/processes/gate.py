"""What a server's calls have to pass, as its settings say."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from tensorus_server.rpc.audit_log import AuditLog
from tensorus_server.rpc.authentication import Authenticator
from tensorus_server.rpc.call_log import CallLog
from tensorus_server.rpc.calls import Gate
from tensorus_server.rpc.certificate_principal import certificate_principal
from tensorus_server.rpc.quotas import Quotas

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tensorus_server.config import ServerConfig
    from tensorus_server.engine.access import Access
    from tensorus_server.logs.audit_file import AuditFile
    from tensorus_server.rpc.admission import Admission
    from tensorus_server.rpc.calls import CallObserver
    from tensorus_server.rpc.identity_provider import IdentityProvider

__all__ = ["build_gate", "identity_provider", "warn_if_nobody_can_call"]

_log = logging.getLogger(__name__)


def build_gate(
    config: ServerConfig,
    access: Access,
    admission: Admission,
    provider: IdentityProvider | None,
    audit: AuditFile | None,
    *,
    more: Sequence[CallObserver] = (),
) -> Gate:
    """Return the gate of a server.

    Args:
        provider: see `identity_provider`.
        audit: where changes are noted; None: nowhere.
        more: are told of calls, too.
    """
    audits = [] if audit is None else [AuditLog(audit)]
    observers: list[CallObserver] = [CallLog(every_call=config.logs.access), *audits, *more]
    if not config.authenticates:
        return Gate(admission, observers=observers, tensor_observers=audits)
    return Gate(
        admission,
        authenticate=Authenticator(access, certificate=certificate_principal, provider=provider),
        rights=access.rights,
        quotas=Quotas(access),
        observers=observers,
        tensor_observers=audits,
    )


def warn_if_nobody_can_call(config: ServerConfig, access: Access) -> None:
    """Log how to create the first token, if callers are asked who they are and there is no way yet to answer."""
    has_certificates = config.tls is not None and config.tls.client_ca is not None
    if config.authenticates and not has_certificates and config.oidc_issuer is None and not access.tokens():
        _log.warning(
            "callers need a token, and there is none: create the first one on this machine with "
            "`tensorus token create admin --store FOLDER --grant 'admin *'`"
        )


def identity_provider(config: ServerConfig) -> IdentityProvider | None:
    """Return the identity provider that the settings name; None: there is none.

    Raises:
        ImportError: PyJWT is not installed.
        ValueError: its address is not allowed.
    """
    if config.oidc_issuer is None:
        return None
    try:
        from tensorus_server.rpc.identity_provider import IdentityProvider  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ImportError(
            f"{error.name} is not installed, which an identity provider needs: pip install 'tensorus[oidc]'",
            name=error.name,
        ) from error
    assert config.oidc_audience is not None
    return IdentityProvider(config.oidc_issuer, config.oidc_audience)

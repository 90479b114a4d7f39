"""tensorus grant, revoke, grants, quota, quotas and chown."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import click

from tensorus.access import Quota
from tensorus.cli._connection import connected, store_options
from tensorus.cli._options import SIZE, json_option
from tensorus.cli._output import human_bytes, print_json, print_table, print_text
from tensorus.cli.token import ROLES

if TYPE_CHECKING:
    from tensorus.access import QuotaUsage, Role
    from tensorus.cli._connection import ServerOptions

__all__ = ["chown", "grant", "grants", "quota", "quotas", "revoke"]

_ROLE = click.Choice(ROLES)


@click.command()
@click.argument("principal")
@click.argument("role", type=_ROLE)
@click.argument("pattern")
@store_options()
def grant(principal: str, role: str, pattern: str, server: ServerOptions, store: str | None) -> None:
    """Give PRINCIPAL the role ROLE on the datasets that PATTERN matches.

    PRINCIPAL is token:NAME, cert:NAME, oidc:NAME or group:NAME. A reader reads; a writer also creates datasets and inserts,
    edits and deletes tensors; an admin also deletes, renames and restores datasets, changes their settings and grants roles.
    PATTERN is the name of a dataset, a prefix that ends with '*', or '*'. Quote it for the shell.

    \b
    Example:
      tensorus grant token:trainer writer 'team/*'
    """  # noqa: D301 - click's mark for lines that are not rewrapped
    with connected(server, store) as client:
        added = client.access.grant(principal, cast("Role", role), pattern)
    print_text(f"{principal} is {role} of {pattern}{'' if added else ', as before'}")


@click.command()
@click.argument("principal")
@click.argument("role", type=_ROLE)
@click.argument("pattern")
@store_options()
def revoke(principal: str, role: str, pattern: str, server: ServerOptions, store: str | None) -> None:
    """Take back exactly the grant of ROLE on PATTERN from PRINCIPAL. Its other grants stay.

    \b
    Example:
      tensorus revoke token:trainer writer 'team/*'
    """  # noqa: D301 - click's mark for lines that are not rewrapped
    with connected(server, store) as client:
        removed = client.access.revoke_grant(principal, cast("Role", role), pattern)
    if not removed:
        raise click.ClickException(
            f"{principal} has no grant of exactly {role} on {pattern}; tensorus grants lists them"
        )
    print_text(f"revoked: {principal} {role} {pattern}")


@click.command()
@click.argument("principal", default="")
@store_options()
@json_option
def grants(principal: str, server: ServerOptions, store: str | None, *, as_json: bool) -> None:
    """List who has which role on which datasets, or only what PRINCIPAL has.

    \b
    Example:
      tensorus grants token:trainer
    """  # noqa: D301 - click's mark for lines that are not rewrapped
    with connected(server, store, reads=True) as client:
        found = client.access.grants(principal)
    if as_json:
        print_json(found)
    else:
        print_table(["principal", "role", "datasets"], ([one.principal, one.role, one.pattern] for one in found))


@click.command()
@click.argument("principal")
@click.option("--stored", type=SIZE, help="Bytes that the tensors in its datasets may take.")
@click.option("--tensors", type=click.IntRange(0), help="Tensors in its datasets.")
@click.option("--streams", type=click.IntRange(0), help="Transfers at the same time, per server process.")
@click.option("--calls", type=click.FloatRange(0, min_open=True), help="Calls per second, per server process.")
@click.option("--bandwidth", type=SIZE, help="Bytes per second, received and sent, per server process.")
@click.option("--clear", is_flag=True, help="Remove all limits that are not given.")
@store_options()
def quota(
    principal: str,
    stored: int | None,
    tensors: int | None,
    streams: int | None,
    calls: float | None,
    bandwidth: int | None,
    server: ServerOptions,
    store: str | None,
    *,
    clear: bool,
) -> None:
    """Limit what PRINCIPAL may store and transfer. Limits that are not given stay as they are.

    Its datasets are those that it created, or was given by tensorus chown. Tensors count for the owner of their dataset,
    whoever inserts them.

    \b
    Examples:
      tensorus quota token:trainer --stored 2TB --streams 8
      tensorus quota token:trainer --clear
    """  # noqa: D301 - click's mark for lines that are not rewrapped
    given: dict[str, Any] = {
        "stored_bytes": stored,
        "tensors": tensors,
        "streams": streams,
        "calls_per_second": calls,
        "bytes_per_second": bandwidth,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    if not changes and not clear:
        raise click.UsageError("give at least one limit, or --clear")
    with connected(server, store) as client:
        before = {usage.quota.principal: usage.quota for usage in client.access.quotas()}
        base = Quota(principal) if clear else before.get(principal, Quota(principal))
        client.access.set_quota(replace(base, **changes))
    print_text(f"{principal}: {'no limits' if not changes and clear else 'changed'}")


@click.command()
@store_options()
@json_option
def quotas(server: ServerOptions, store: str | None, *, as_json: bool) -> None:
    """List all quotas with what their principals use.

    \b
    Example:
      tensorus quotas
    """  # noqa: D301 - click's mark for lines that are not rewrapped
    with connected(server, store, reads=True) as client:
        found = client.access.quotas()
    if as_json:
        print_json(found)
        return
    print_table(
        ["principal", ">stored", ">tensors", ">streams", ">calls/s", ">bytes/s"],
        (_row(usage) for usage in found),
    )


@click.command()
@click.argument("dataset")
@click.argument("principal")
@store_options()
def chown(dataset: str, principal: str, server: ServerOptions, store: str | None) -> None:
    """Make PRINCIPAL the owner of DATASET, whose tensors then count against its quota; '' is nobody.

    This gives no rights; tensorus grant does.

    \b
    Example:
      tensorus chown weights token:trainer
    """  # noqa: D301 - click's mark for lines that are not rewrapped
    with connected(server, store) as client:
        client.access.set_owner(dataset, principal)
    print_text(f"{principal or 'nobody'} owns {dataset}")


def _row(usage: QuotaUsage) -> list[str]:
    limits = usage.quota
    return [
        limits.principal,
        _of(human_bytes(usage.stored_bytes), None if limits.stored_bytes is None else human_bytes(limits.stored_bytes)),
        _of(str(usage.tensors), None if limits.tensors is None else str(limits.tensors)),
        _of(str(usage.streams), None if limits.streams is None else str(limits.streams)),
        "" if limits.calls_per_second is None else f"{limits.calls_per_second:g}",
        "" if limits.bytes_per_second is None else human_bytes(limits.bytes_per_second),
    ]


def _of(used: str, limit: str | None) -> str:
    return used if limit is None else f"{used} of {limit}"

"""tensorus token create, list and revoke."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

import click

import tensorus
from tensorus.access import Scope
from tensorus.cli._connection import connected, store_options
from tensorus.cli._options import DURATION, json_option
from tensorus.cli._output import print_json, print_note, print_table, print_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import timedelta

    from tensorus.access import Role, Token
    from tensorus.cli._connection import ServerOptions

__all__ = ["ROLES", "token"]

ROLES = ("reader", "writer", "admin")


class _Scope(click.ParamType):  # type: ignore[type-arg]  # not generic in every version of click
    """A role and a pattern of datasets, such as "writer team/*"."""

    name = "scope"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Scope:
        """Return the scope. `Any`: text, or a scope already."""
        if isinstance(value, Scope):
            return value
        role, _, pattern = value.strip().partition(" ")
        if role not in ROLES or not pattern.strip():
            self.fail(f"{value!r} is not a role and a pattern, such as 'writer team/*'", param, ctx)
        return Scope(cast("Role", role), pattern.strip())


SCOPE = _Scope()


@click.group()
def token() -> None:
    """Create, list and revoke the tokens by which a server knows its callers.

    \b
    Examples:
      tensorus token create trainer --expires 90d --grant 'writer team/*'
      tensorus token list
      tensorus token revoke 6d0c5b5d9a1f4e23
    """  # noqa: D301 - click's mark for lines that are not rewrapped


@token.command()
@click.argument("name")
@click.option(
    "--expires", type=DURATION, metavar="DURATION", help="How long it is valid, such as 90d.  [default: for ever]"
)
@click.option("--note", default="", help="A note for people.")
@click.option(
    "--scope",
    "scopes",
    type=SCOPE,
    multiple=True,
    metavar="'ROLE PATTERN'",
    help="What the token allows at most; can be repeated.  [default: all that its principal may do]",
)
@click.option(
    "--grant",
    "granted",
    type=SCOPE,
    multiple=True,
    metavar="'ROLE PATTERN'",
    help="Give the principal token:NAME this role at once; can be repeated.",
)
@store_options(makes_store=True)
@click.option("--catalogue", metavar="URL", help="With --chunks: use this store beyond one machine, without a server.")
@click.option("--chunks", metavar="URL", help="See --catalogue.")
@json_option
def create(
    name: str,
    expires: timedelta | None,
    note: str,
    scopes: tuple[Scope, ...],
    granted: tuple[Scope, ...],
    server: ServerOptions,
    store: str | None,
    catalogue: str | None,
    chunks: str | None,
    *,
    as_json: bool,
) -> None:
    """Create a token for the principal token:NAME, and print it. It cannot be shown again.

    A principal may have several tokens, so that one can replace another. The first token of a store is created on the machine
    that has it, with --store: before a server is started, or while it uses the store.

    \b
    Examples:
      tensorus token create admin --store /srv/tensors --grant 'admin *'
      tensorus token create trainer --expires 90d --grant 'writer team/*'
      tensorus token create dashboard --scope 'reader team/results'
    """  # noqa: D301 - click's mark for lines that are not rewrapped
    if expires is not None and not expires:
        raise click.BadParameter("must be longer than 0", param_hint="--expires")
    with _opened(server, store, catalogue, chunks) as client:
        made = client.access.create_token(name, note=note, lifetime=expires, scopes=scopes)
        for scope in granted:
            client.access.grant(made.token.principal, scope.role, scope.pattern)
    if as_json:
        print_json({"token": made.token, "secret": made.secret})
        return
    print_text(made.secret)
    until = "for ever" if made.token.expires is None else f"until {made.token.expires:%Y-%m-%d %H:%M} UTC"
    print_note(f"token {made.token.id} of {made.token.principal}, valid {until}; it cannot be shown again")


@token.command("list")
@store_options()
@json_option
def list_(server: ServerOptions, store: str | None, *, as_json: bool) -> None:
    """List the tokens of a store, without their secrets. Expired and revoked ones are listed for 30 days.

    \b
    Example:
      tensorus token list
    """  # noqa: D301 - click's mark for lines that are not rewrapped
    with connected(server, store, reads=True) as client:
        found = client.access.tokens()
    if as_json:
        print_json(found)
        return
    print_table(
        ["id", "principal", "created", "valid", "scopes", "note"],
        ([one.id, one.principal, _day(one.created), _valid(one), _scopes(one), one.note] for one in found),
    )


@token.command()
@click.argument("token_id", metavar="ID")
@store_options()
def revoke(token_id: str, server: ServerOptions, store: str | None) -> None:
    """Revoke the token with the public part ID, which `tensorus token list` shows.

    Calls with it are refused at once by the server that is asked, and within 2 seconds by all others. A whole token is taken,
    too.

    \b
    Example:
      tensorus token revoke 6d0c5b5d9a1f4e23
    """  # noqa: D301 - click's mark for lines that are not rewrapped
    public = token_id.split("_")[1] if token_id.startswith("tns_") and token_id.count("_") > 1 else token_id
    with connected(server, store) as client:
        revoked = client.access.revoke_token(public)
    print_text(f"revoked token {revoked.id} of {revoked.principal}")


@contextmanager
def _opened(
    server: ServerOptions, store: str | None, catalogue: str | None, chunks: str | None
) -> Iterator[tensorus.Client]:
    if catalogue is None and chunks is None:
        with connected(server, store) as client:
            yield client
        return
    if server.is_given:
        raise click.UsageError(
            "--catalogue and --chunks name a store that is used without a server; omit --server and --profile"
        )
    try:
        client = tensorus.open(store, catalogue=catalogue, chunks=chunks)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    with client:
        yield client


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d}"


def _valid(one: Token) -> str:
    if one.revoked is not None:
        return f"revoked {_day(one.revoked)}"
    if one.expires is None:
        return "for ever"
    return f"{'expired' if one.expires <= datetime.now(UTC) else 'until'} {_day(one.expires)}"


def _scopes(one: Token) -> str:
    return ", ".join(f"{scope.role} {scope.pattern}" for scope in one.scopes) or "all"

"""The address of a catalogue: a URL or connection string of libpq, with two options of ours in the URL.

schema      the schema that has the tables; default "tensorus". Stores with different schemas share a database.
pgbouncer   true: no statement is prepared, since pgbouncer in transaction mode gives each transaction another connection.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tensorus_server.errors import StoreUnavailableError

__all__ = ["Address"]

_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,62}")

_DEFAULTS = {
    "application_name": "tensorus",
    "connect_timeout": "10",
    # A server that is gone without a word is noticed within 30 s.
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "4",
    "tcp_user_timeout": "30000",
}


@dataclass(frozen=True)
class Address:
    """Where a catalogue is."""

    conninfo: str
    """For libpq; may contain the password, so it is never part of a message."""
    schema: str
    prepares: bool
    """Whether statements are prepared."""
    where: str
    """For messages: "PostgreSQL at HOST:PORT/DATABASE"."""

    @classmethod
    def parse(cls, dsn: str) -> Address:
        """Return the address that a URL or connection string gives.

        Raises:
            StoreUnavailableError: it is malformed; the message does not repeat it, since it may contain a password.
        """
        options: dict[str, str] = {}
        if dsn.startswith(("postgresql://", "postgres://")):
            try:
                url = urlsplit(dsn)
            except ValueError:
                raise _malformed("it is not a URL") from None
            pairs = parse_qsl(url.query, keep_blank_values=True)
            options = {name: value for name, value in pairs if name in {"schema", "pgbouncer"}}
            rest = [(name, value) for name, value in pairs if name not in options]
            dsn = urlunsplit(url._replace(query=urlencode(rest)))
        schema, pgbouncer = options.get("schema", "tensorus"), options.get("pgbouncer", "false")
        if not _SCHEMA.fullmatch(schema) or schema.startswith("pg_"):
            raise _malformed(f"schema is {schema!r}, must be lower-case letters, digits and underscores")
        if pgbouncer not in {"true", "false"}:
            raise _malformed(f"pgbouncer is {pgbouncer!r}, must be true or false")
        try:
            given = {name: str(value) for name, value in conninfo_to_dict(dsn).items() if value is not None}
            conninfo = make_conninfo(**(_DEFAULTS | given))
        except psycopg.Error:
            # The error repeats parts of the address.
            raise _malformed("libpq does not understand it") from None
        # As libpq looks for what the address leaves out; without a host, it uses a Unix socket.
        host = given.get("host") or given.get("hostaddr") or os.environ.get("PGHOST", "localhost")
        port = given.get("port") or os.environ.get("PGPORT", "5432")
        database = given.get("dbname") or os.environ.get("PGDATABASE") or given.get("user", "")
        return cls(conninfo, schema, pgbouncer == "false", f"PostgreSQL at {host}:{port}/{database}")


def _malformed(what: str) -> StoreUnavailableError:
    return StoreUnavailableError(f"the address of the catalogue in PostgreSQL is malformed: {what}")

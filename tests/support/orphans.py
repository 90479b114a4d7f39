"""What an object store has that no row of its catalogue needs, found without the code of the store."""

from __future__ import annotations

import re
import time

import obstore
import psycopg
from obstore.store import S3Store

from support.seaweed import ACCESS_KEY, BUCKET, SECRET_KEY

_SEGMENT = re.compile(r"t/[0-9a-f]{2}/([0-9a-f]{32})/")
_PACK = re.compile(r"p/[0-9a-f]{2}/([0-9a-f]{32})$")

_GRACE_S = 600.0
"""Tombstones that are due later are those of deleted tensors, whose payloads stay for an hour."""

_NEEDED = """
SELECT key FROM tensorus.tensor WHERE inline = 0 UNION SELECT key FROM tensorus.past_tensor WHERE inline = 0
UNION SELECT key FROM tensorus.reference UNION SELECT base FROM tensorus.payload_base
UNION SELECT 'pack/' || pack FROM tensorus.pack
UNION SELECT key FROM tensorus.tombstone WHERE delete_after_us > %s
UNION SELECT payload_key FROM tensorus.upload WHERE generation IS NULL
"""

_KNOWN = {
    "begun": "SELECT key, member, member IN (SELECT member FROM tensorus.member) FROM tensorus.begun WHERE key LIKE %s",
    "tombstone": "SELECT key, delete_after_us FROM tensorus.tombstone WHERE key LIKE %s",
    "pack": "SELECT pack, object_bytes, checked_us FROM tensorus.pack WHERE 'pack/' || pack LIKE %s",
}


def objects_of(endpoint: str, prefix: str) -> set[str]:
    """Return the names of payloads and packs, "pack/<name>", in the bucket."""
    store = S3Store(
        BUCKET,
        prefix=prefix,
        endpoint=endpoint,
        region="us-east-1",
        access_key_id=ACCESS_KEY,
        secret_access_key=SECRET_KEY,
        client_options={"allow_http": True},
    )
    names = set()
    for batch in obstore.list(store):
        for entry in batch:
            if found := _SEGMENT.search(entry["path"]):
                names.add(found[1])
            elif found := _PACK.search(entry["path"]):
                names.add(f"pack/{found[1]}")
    return names


def needed_objects(dsn: str) -> set[str]:
    """Return what the rows need, in the same form."""
    with psycopg.connect(dsn) as connection:
        keys = [key for (key,) in connection.execute(_NEEDED, (int((time.time() + _GRACE_S) * 1e6),))]
    return {key if key.startswith("pack/") else key.rpartition("/")[2] for key in keys}


def orphans(endpoint: str, prefix: str, dsn: str) -> set[str]:
    """Return the objects that no row needs. Objects that are being written are among them."""
    stored = objects_of(endpoint, prefix)
    return stored - needed_objects(dsn)


def rows_of(dsn: str, name: str) -> str:
    """Return, for a message, what the catalogue knows of an object that is named as by `objects_of`, and the time."""
    with psycopg.connect(dsn) as connection:
        found = {table: connection.execute(statement, (f"%{name}%",)).fetchall() for table, statement in _KNOWN.items()}
    return f"{name}: {found}, now {int(time.time() * 1e6)}"

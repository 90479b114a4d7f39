-- Adds who may do what: tokens, grants and quotas of principals, and the owners of datasets. Every row has a checksum over all of
-- its columns.

-- How often any of these tables was changed; one row, once there was a change.
CREATE TABLE access_change (
  id INTEGER PRIMARY KEY, -- 1
  version INTEGER NOT NULL
) STRICT;

CREATE TABLE access_token (
  id TEXT PRIMARY KEY, -- the public part
  principal TEXT NOT NULL,
  note TEXT NOT NULL,
  digest BLOB NOT NULL, -- SHA-256 of the whole token
  created_us INTEGER NOT NULL,
  expires_us INTEGER, -- NULL: never
  revoked_us INTEGER, -- NULL: it was not revoked
  scopes TEXT, -- JSON: a list of [role, pattern]; NULL: all that the principal may do
  row_checksum INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE access_grant (
  principal TEXT NOT NULL,
  role INTEGER NOT NULL, -- 1: reader, 2: writer, 3: admin
  pattern TEXT NOT NULL,
  row_checksum INTEGER NOT NULL,
  PRIMARY KEY (principal, role, pattern)
) STRICT, WITHOUT ROWID;

-- NULL: no limit.
CREATE TABLE access_quota (
  principal TEXT PRIMARY KEY,
  stored_bytes INTEGER,
  tensors INTEGER,
  streams INTEGER,
  calls_per_s REAL,
  bytes_per_s INTEGER,
  row_checksum INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE dataset_owner (
  ds INTEGER PRIMARY KEY,
  principal TEXT NOT NULL,
  row_checksum INTEGER NOT NULL
) STRICT;

-- Adds who may do what, and who owns which dataset.

-- One row: how often the tables token, access_grant, quota and owner were changed, so that processes notice. No row: never.
CREATE TABLE access_version (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  version INTEGER NOT NULL
) STRICT;

CREATE TABLE token (
  id TEXT PRIMARY KEY, -- its public part
  principal TEXT NOT NULL,
  note TEXT NOT NULL,
  digest BLOB NOT NULL, -- SHA-256 of the whole token
  created_us INTEGER NOT NULL,
  expires_us INTEGER, -- NULL: never
  revoked_us INTEGER, -- NULL: it was not revoked
  scopes TEXT, -- JSON: [[role, pattern], ...]; NULL: all that its principal may do
  row_checksum INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE access_grant (
  principal TEXT NOT NULL,
  pattern TEXT NOT NULL,
  role INTEGER NOT NULL, -- 1: reader, 2: writer, 3: admin
  row_checksum INTEGER NOT NULL,
  PRIMARY KEY (principal, pattern, role)
) STRICT, WITHOUT ROWID;

-- NULL: no limit.
CREATE TABLE quota (
  principal TEXT PRIMARY KEY,
  stored_bytes INTEGER,
  tensors INTEGER,
  streams INTEGER,
  calls_per_s REAL,
  bytes_per_s INTEGER,
  row_checksum INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE owner (
  ds INTEGER PRIMARY KEY,
  principal TEXT NOT NULL,
  -- Sums over the dataset's current tensors, which triggers keep. REAL, which is exact up to 2**53 and never overflows: a commit or
  -- a deletion must not fail because one of them, or a tensor's row, is damaged. No checksum covers them.
  tensors REAL NOT NULL,
  stored_bytes REAL NOT NULL,
  row_checksum INTEGER NOT NULL
) STRICT;

-- Triggers, so that a process of an older version that has the file open keeps these promises, too.

CREATE TRIGGER tensor_owned AFTER INSERT ON tensor
BEGIN
  UPDATE owner SET
    tensors = coalesce(tensors + 1, 0), stored_bytes = coalesce(stored_bytes + new.stored_bytes, 0)
  WHERE ds = new.ds;
END;

CREATE TRIGGER tensor_disowned AFTER DELETE ON tensor
BEGIN
  UPDATE owner SET
    tensors = coalesce(max(tensors - 1, 0), 0), stored_bytes = coalesce(max(stored_bytes - old.stored_bytes, 0), 0)
  WHERE ds = old.ds;
END;

CREATE TRIGGER dataset_disowned AFTER UPDATE OF deleted_us ON dataset
WHEN new.deleted_us IS NOT NULL
BEGIN
  DELETE FROM owner WHERE ds = new.ds;
END;

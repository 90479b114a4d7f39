-- Adds who may do what: tokens, grants and quotas of principals, and the owners of datasets; see SQLite's migration 0012.

-- How often any of these tables was changed; one row, once there was a change.
CREATE TABLE access_change (
  id bigint PRIMARY KEY, -- 1
  version bigint NOT NULL
);

CREATE TABLE access_token (
  id text COLLATE "C" PRIMARY KEY, -- the public part
  principal text COLLATE "C" NOT NULL,
  note text COLLATE "C" NOT NULL,
  digest bytea NOT NULL, -- SHA-256 of the whole token
  created_us bigint NOT NULL,
  expires_us bigint, -- NULL: never
  revoked_us bigint, -- NULL: it was not revoked
  scopes text COLLATE "C", -- JSON: a list of [role, pattern]; NULL: all that the principal may do
  row_checksum bigint NOT NULL
);

CREATE TABLE access_grant (
  principal text COLLATE "C" NOT NULL,
  role bigint NOT NULL, -- 1: reader, 2: writer, 3: admin
  pattern text COLLATE "C" NOT NULL,
  row_checksum bigint NOT NULL,
  PRIMARY KEY (principal, role, pattern)
);

-- NULL: no limit.
CREATE TABLE access_quota (
  principal text COLLATE "C" PRIMARY KEY,
  stored_bytes bigint,
  tensors bigint,
  streams bigint,
  calls_per_s double precision,
  bytes_per_s bigint,
  row_checksum bigint NOT NULL
);

CREATE TABLE dataset_owner (
  ds bigint PRIMARY KEY,
  principal text COLLATE "C" NOT NULL,
  row_checksum bigint NOT NULL
);

-- Adds who may do what, and who owns which dataset; see SQLite's migration 0012.

-- One row: how often the tables token, access_grant, quota and owner were changed, so that processes notice. No row: never.
CREATE TABLE access_version (
  one bigint PRIMARY KEY CHECK (one = 1),
  version bigint NOT NULL
) WITH (fillfactor = 10);

CREATE TABLE token (
  id text COLLATE "C" PRIMARY KEY, -- its public part
  principal text COLLATE "C" NOT NULL,
  note text COLLATE "C" NOT NULL,
  digest bytea NOT NULL, -- SHA-256 of the whole token
  created_us bigint NOT NULL,
  expires_us bigint, -- NULL: never
  revoked_us bigint, -- NULL: it was not revoked
  scopes text COLLATE "C", -- JSON: [[role, pattern], ...]; NULL: all that its principal may do
  row_checksum bigint NOT NULL
);

CREATE TABLE access_grant (
  principal text COLLATE "C" NOT NULL,
  pattern text COLLATE "C" NOT NULL,
  role bigint NOT NULL, -- 1: reader, 2: writer, 3: admin
  row_checksum bigint NOT NULL,
  PRIMARY KEY (principal, pattern, role)
);

-- NULL: no limit.
CREATE TABLE quota (
  principal text COLLATE "C" PRIMARY KEY,
  stored_bytes bigint,
  tensors bigint,
  streams bigint,
  calls_per_s double precision,
  bytes_per_s bigint,
  row_checksum bigint NOT NULL
);

CREATE TABLE owner (
  ds bigint PRIMARY KEY,
  principal text COLLATE "C" NOT NULL,
  tensors double precision NOT NULL, -- sums over the dataset's current tensors, which triggers keep
  stored_bytes double precision NOT NULL,
  row_checksum bigint NOT NULL
) WITH (fillfactor = 50);

CREATE FUNCTION count_owned_tensors() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (SELECT 1 FROM owner) THEN
    UPDATE owner AS o SET tensors = o.tensors + i.tensors, stored_bytes = o.stored_bytes + i.stored_bytes
    FROM (SELECT ds, count(*) AS tensors, total(stored_bytes) AS stored_bytes FROM inserted GROUP BY ds) AS i
    WHERE o.ds = i.ds;
  END IF;
  RETURN NULL;
END
$$;

CREATE TRIGGER tensor_owned AFTER INSERT ON tensor REFERENCING NEW TABLE AS inserted
FOR EACH STATEMENT EXECUTE FUNCTION count_owned_tensors();

CREATE FUNCTION discount_owned_tensors() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (SELECT 1 FROM owner) THEN
    UPDATE owner AS o SET
      tensors = greatest(o.tensors - d.tensors, 0), stored_bytes = greatest(o.stored_bytes - d.stored_bytes, 0)
    FROM (SELECT ds, count(*) AS tensors, total(stored_bytes) AS stored_bytes FROM deleted GROUP BY ds) AS d
    WHERE o.ds = d.ds;
  END IF;
  RETURN NULL;
END
$$;

CREATE TRIGGER tensor_disowned AFTER DELETE ON tensor REFERENCING OLD TABLE AS deleted
FOR EACH STATEMENT EXECUTE FUNCTION discount_owned_tensors();

CREATE FUNCTION disown_dataset() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  DELETE FROM owner WHERE ds = NEW.ds;
  RETURN NULL;
END
$$;

CREATE TRIGGER dataset_disowned AFTER UPDATE OF deleted_us ON dataset
FOR EACH ROW WHEN (NEW.deleted_us IS NOT NULL) EXECUTE FUNCTION disown_dataset();

-- The first schema: that of SQLite's migrations up to 0010, with what PostgreSQL does better.
--
-- Times are in microseconds since 1970, by this server's clock. JSON is text, since a checksum covers its bytes. All texts are
-- compared by code point. Triggers run once for each statement, since a commit inserts hundreds of rows; the references from
-- payloads and attributes to tensors are kept by them, too, which takes less time than constraints.

-- ---- What statements of `catalogue/sql` use of SQLite --------------------------------------------------------------------

CREATE DOMAIN c_text AS text COLLATE "C";

-- Volatile, so that it is not replaced by its text, and its one row is believed: the planner then looks up each item in an index,
-- as SQLite does, and does not scan a table of which it has no statistics yet.
CREATE FUNCTION json_each(items text) RETURNS TABLE (key bigint, value text) LANGUAGE sql VOLATILE ROWS 1 AS $$
  SELECT item.ordinality - 1, item.value FROM json_array_elements_text(items::json) WITH ORDINALITY AS item (value, ordinality)
$$;

CREATE FUNCTION unhex(digits text) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$ SELECT decode(digits, 'hex') $$;

CREATE FUNCTION bytes_of(value text) RETURNS bytea LANGUAGE sql STABLE AS $$ SELECT convert_to(value, 'UTF8') $$;

CREATE FUNCTION bytes_of(value bytea) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$ SELECT value $$;

CREATE FUNCTION typeof(value bigint) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT 'integer' $$;

CREATE AGGREGATE total(double precision) (SFUNC = float8pl, STYPE = double precision, INITCOND = '0');

CREATE FUNCTION json_of(items text[]) RETURNS text LANGUAGE sql STABLE AS $$ SELECT to_json(items)::text $$;

CREATE AGGREGATE json_group_array(text) (SFUNC = array_append, STYPE = text[], INITCOND = '{}', FINALFUNC = json_of);

-- ---- Tables -------------------------------------------------------------------------------------------------------------

-- The largest generation that was assigned. A sequence would assign generations before the commit, and not in its order.
CREATE TABLE counter (
  name text COLLATE "C" PRIMARY KEY,
  seq bigint NOT NULL
) WITH (fillfactor = 10);

INSERT INTO counter VALUES ('tensor', 0);

-- The last commit of each connection; see `commits.py`.
CREATE TABLE last_commit (
  connection bigint PRIMARY KEY, -- a random number
  token bigint NOT NULL, -- of the transaction, a random number
  at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 10);

CREATE TABLE store (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  id text COLLATE "C" NOT NULL, -- 128 random bits
  epoch bigint NOT NULL, -- raised as `identity.py` says
  raised_us bigint NOT NULL, -- when
  listed_us bigint NOT NULL -- when the chunk store was last listed for payloads that nothing knows
);

CREATE TABLE dataset (
  ds bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name text COLLATE "C" NOT NULL UNIQUE,
  policy text COLLATE "C" NOT NULL, -- JSON
  schema text COLLATE "C" NOT NULL, -- JSON
  created_us bigint NOT NULL,
  last_ordinal bigint NOT NULL DEFAULT 0, -- of the newest tensor ever committed to the dataset
  deleted_us bigint, -- NULL: it was not deleted
  row_checksum bigint NOT NULL DEFAULT -1, -- -1 is no checksum; set before the transaction ends
  retention_us bigint NOT NULL DEFAULT 0 -- how long replaced and deleted tensors stay readable
) WITH (fillfactor = 50);

CREATE INDEX dataset_deleted ON dataset (deleted_us) WHERE deleted_us IS NOT NULL;

CREATE TABLE tensor (
  seq bigint PRIMARY KEY, -- the generation: never reused
  ds bigint NOT NULL,
  id text COLLATE "C" NOT NULL,
  dtype text COLLATE "C" NOT NULL,
  dtype_number bigint NOT NULL,
  element_bytes bigint NOT NULL,
  shape text COLLATE "C" NOT NULL, -- "[2, 3]"
  rank bigint NOT NULL,
  nbytes bigint NOT NULL, -- canonical
  quantized_bytes bigint NOT NULL,
  stored_bytes bigint NOT NULL,
  relative_error double precision NOT NULL,
  max_absolute_error double precision NOT NULL,
  lossy bigint NOT NULL,
  encodings text COLLATE "C" NOT NULL, -- JSON
  fallback_reason text COLLATE "C" NOT NULL,
  chunk_bytes bigint NOT NULL,
  created_us bigint NOT NULL,
  "min" double precision, -- of finite values; these five are NULL where there are none
  "max" double precision,
  mean double precision,
  standard_deviation double precision,
  l2_norm double precision,
  zero_count bigint, -- NULL: the dtype has no summary
  nan_count bigint,
  infinity_count bigint,
  policy text COLLATE "C", -- JSON; NULL: the dataset's
  source_algorithm text COLLATE "C" NOT NULL,
  source_checksum bytea NOT NULL,
  source_crc bigint NOT NULL, -- CRC32C of the same bytes: compares inserts whose checksums are of different algorithms
  value_algorithm text COLLATE "C" NOT NULL,
  value_checksum bytea NOT NULL,
  inline bigint NOT NULL, -- 1: the payload is in the table of that name
  key text COLLATE "C" NOT NULL,
  "offset" bigint NOT NULL,
  length bigint NOT NULL,
  index_length bigint NOT NULL,
  index_crc bigint NOT NULL,
  row_checksum bigint NOT NULL,
  metadata text COLLATE "C" NOT NULL, -- JSON
  ordinal bigint NOT NULL CHECK (ordinal >= 1),
  UNIQUE (ds, id)
);

CREATE INDEX tensor_created ON tensor (ds, seq);
CREATE INDEX tensor_nbytes ON tensor (ds, nbytes, seq);
CREATE INDEX tensor_stored_bytes ON tensor (ds, stored_bytes, seq);
CREATE INDEX tensor_key ON tensor (key) WHERE inline = 0;

CREATE TABLE payload (
  seq bigint PRIMARY KEY,
  bytes bytea NOT NULL
);

-- Payloads are compressed already.
ALTER TABLE payload ALTER COLUMN bytes SET STORAGE EXTERNAL;

-- The values that filters use: metadata, with one row for each element of a list, and dimensions as "@dim.0", ...
-- NUL characters are escaped; see `adapters.py`.
CREATE TABLE attr (
  seq bigint NOT NULL,
  key text COLLATE "C" NOT NULL,
  ordinal bigint NOT NULL,
  ds bigint NOT NULL,
  num double precision,
  txt text COLLATE "C",
  PRIMARY KEY (seq, key, ordinal)
);

CREATE INDEX attr_num ON attr (ds, key, num, seq);
CREATE INDEX attr_txt ON attr (ds, key, txt, seq) WHERE txt IS NOT NULL;

-- Payloads of deleted tensors. Readers that began before the deletion may still need them.
CREATE TABLE tombstone (
  key text COLLATE "C" PRIMARY KEY,
  delete_after_us bigint NOT NULL
);

CREATE INDEX tombstone_due ON tombstone (delete_after_us);

-- Uploads that can be resumed, and the tensors that they became, until they expire.
CREATE TABLE upload (
  request_id text COLLATE "C" NOT NULL,
  item bigint NOT NULL,
  ds bigint NOT NULL,
  id text COLLATE "C" NOT NULL,
  dtype_number bigint NOT NULL,
  element_bytes bigint NOT NULL,
  shape text COLLATE "C" NOT NULL, -- "[2,3]"
  policy text COLLATE "C" NOT NULL, -- JSON; as it was when the upload began
  payload_key text COLLATE "C" NOT NULL,
  committed_bytes bigint NOT NULL, -- canonical
  stored_bytes bigint NOT NULL, -- of the payload so far
  chunk_count bigint NOT NULL,
  state text COLLATE "C" NOT NULL, -- JSON: what was measured so far
  generation bigint, -- of the tensor that it became
  expires_us bigint NOT NULL,
  announced text COLLATE "C", -- JSON: metadata, policy, source checksum, and which tensor may be replaced
  outcome text COLLATE "C",
  row_checksum bigint NOT NULL,
  PRIMARY KEY (request_id, item)
);

CREATE INDEX upload_expiry ON upload (expires_us);
CREATE INDEX upload_payload ON upload (payload_key);

-- The chunk index of an upload so far, with one row per mark.
CREATE TABLE upload_chunks (
  request_id text COLLATE "C" NOT NULL,
  item bigint NOT NULL,
  first_chunk bigint NOT NULL,
  entries bytea NOT NULL, -- stored bytes and CRC32C of each chunk, uint32 little-endian
  details bytea, -- chunk details of the same chunks, and their CRC32C before them
  PRIMARY KEY (request_id, item, first_chunk)
);

CREATE TABLE reference (
  key text COLLATE "C" NOT NULL, -- of a payload that the tensor needs beside its own
  seq bigint NOT NULL, -- the tensor's generation
  PRIMARY KEY (key, seq)
);

CREATE INDEX reference_seq ON reference (seq);

CREATE TABLE snapshot (
  ds bigint NOT NULL,
  name text COLLATE "C" NOT NULL,
  generation bigint NOT NULL, -- the tensors of the snapshot have smaller ones; no tensor has this one
  created_us bigint NOT NULL,
  row_checksum bigint NOT NULL,
  PRIMARY KEY (ds, name)
);

CREATE INDEX snapshot_generation ON snapshot (ds, generation);

-- For each dataset that has lost a state: the first generation since when every state can be read.
CREATE TABLE history (
  ds bigint PRIMARY KEY,
  complete_from bigint NOT NULL,
  complete_us bigint, -- when that generation was assigned; NULL: not known, because a state was lost since
  prune bigint NOT NULL DEFAULT 0 -- see `pruning.py`
);

-- Rows that were in the table tensor, and are visible up to, but not including, the generation at the end. Without constraints, so
-- that a damaged row can be moved as it is.
CREATE TABLE past_tensor (
  seq bigint PRIMARY KEY,
  ds bigint,
  id text COLLATE "C",
  dtype text COLLATE "C",
  dtype_number bigint,
  element_bytes bigint,
  shape text COLLATE "C",
  rank bigint,
  nbytes bigint,
  quantized_bytes bigint,
  stored_bytes bigint,
  relative_error double precision,
  max_absolute_error double precision,
  lossy bigint,
  encodings text COLLATE "C",
  fallback_reason text COLLATE "C",
  chunk_bytes bigint,
  created_us bigint,
  "min" double precision,
  "max" double precision,
  mean double precision,
  standard_deviation double precision,
  l2_norm double precision,
  zero_count bigint,
  nan_count bigint,
  infinity_count bigint,
  policy text COLLATE "C",
  source_algorithm text COLLATE "C",
  source_checksum bytea,
  source_crc bigint,
  value_algorithm text COLLATE "C",
  value_checksum bytea,
  inline bigint,
  key text COLLATE "C",
  "offset" bigint,
  length bigint,
  index_length bigint,
  index_crc bigint,
  row_checksum bigint,
  metadata text COLLATE "C",
  ordinal bigint,
  until_generation bigint NOT NULL,
  until_us bigint NOT NULL -- when it was replaced or deleted
);

CREATE INDEX past_tensor_id ON past_tensor (ds, id, seq);
CREATE INDEX past_tensor_created ON past_tensor (ds, seq);
CREATE INDEX past_tensor_until ON past_tensor (ds, until_generation);
CREATE INDEX past_tensor_key ON past_tensor (key) WHERE inline = 0;

CREATE TABLE past_payload (
  seq bigint PRIMARY KEY,
  bytes bytea NOT NULL
);

ALTER TABLE past_payload ALTER COLUMN bytes SET STORAGE EXTERNAL;

CREATE TABLE past_attr (
  seq bigint NOT NULL,
  key text COLLATE "C" NOT NULL,
  ordinal bigint NOT NULL,
  ds bigint NOT NULL,
  num double precision,
  txt text COLLATE "C",
  PRIMARY KEY (seq, key, ordinal)
);

CREATE INDEX past_attr_num ON past_attr (ds, key, num, seq);
CREATE INDEX past_attr_txt ON past_attr (ds, key, txt, seq) WHERE txt IS NOT NULL;

-- Which tensors have the same bytes, dtype, shape and policy. Only tensors with a payload in the chunk store are listed.
CREATE TABLE content (
  digest bytea NOT NULL, -- of all four
  seq bigint NOT NULL,
  PRIMARY KEY (digest, seq)
);

CREATE INDEX content_seq ON content (seq);

-- Payloads with chunks that are stored as differences to chunks of other payloads.
CREATE TABLE payload_base (
  base text COLLATE "C" NOT NULL, -- the key of a payload that must not be deleted before the other one
  key text COLLATE "C" NOT NULL,
  PRIMARY KEY (base, key)
);

CREATE INDEX payload_base_key ON payload_base (key);

-- ---- Triggers: they do what those of SQLite do ---------------------------------------------------------------------------

CREATE FUNCTION after_tensors_inserted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE counter SET seq = greatest(seq, (SELECT max(inserted.seq) FROM inserted)) WHERE name = 'tensor';
  -- A tensor that replaces another one is visible from its own generation, which was assigned before that of the deletion.
  IF EXISTS (SELECT 1 FROM past_tensor) THEN
    UPDATE past_tensor AS p SET until_generation = i.seq, until_us = i.created_us FROM inserted AS i
    WHERE p.ds = i.ds AND p.id = i.id AND p.until_generation > i.seq;
  END IF;
  RETURN NULL;
END
$$;

CREATE TRIGGER tensor_inserted AFTER INSERT ON tensor REFERENCING NEW TABLE AS inserted
FOR EACH STATEMENT EXECUTE FUNCTION after_tensors_inserted();

CREATE FUNCTION after_tensors_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  latest bigint;
  kept bigint;
BEGIN
  IF NOT EXISTS (SELECT 1 FROM deleted) THEN
    RETURN NULL;
  END IF;
  SELECT seq INTO latest FROM counter WHERE name = 'tensor';
  -- Each with a generation of its own, so that the states before and after are told apart.
  INSERT INTO past_tensor (
      seq, ds, id, dtype, dtype_number, element_bytes, shape, rank, nbytes, quantized_bytes, stored_bytes, relative_error,
      max_absolute_error, lossy, encodings, fallback_reason, chunk_bytes, created_us, "min", "max", mean, standard_deviation,
      l2_norm, zero_count, nan_count, infinity_count, policy, source_algorithm, source_checksum, source_crc, value_algorithm,
      value_checksum, inline, key, "offset", length, index_length, index_crc, row_checksum, metadata, ordinal,
      until_generation, until_us)
  SELECT
      d.seq, d.ds, d.id, d.dtype, d.dtype_number, d.element_bytes, d.shape, d.rank, d.nbytes, d.quantized_bytes,
      d.stored_bytes, d.relative_error, d.max_absolute_error, d.lossy, d.encodings, d.fallback_reason, d.chunk_bytes,
      d.created_us, d."min", d."max", d.mean, d.standard_deviation, d.l2_norm, d.zero_count, d.nan_count, d.infinity_count,
      d.policy, d.source_algorithm, d.source_checksum, d.source_crc, d.value_algorithm, d.value_checksum, d.inline, d.key,
      d."offset", d.length, d.index_length, d.index_crc, d.row_checksum, d.metadata, d.ordinal,
      latest + row_number() OVER (ORDER BY d.seq), (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
  FROM deleted AS d
  WHERE EXISTS (SELECT 1 FROM dataset WHERE ds = d.ds AND retention_us > 0 AND deleted_us IS NULL)
    OR EXISTS (SELECT 1 FROM snapshot WHERE ds = d.ds AND generation > d.seq);
  GET DIAGNOSTICS kept = ROW_COUNT;
  IF kept > 0 THEN
    latest := latest + kept;
    UPDATE counter SET seq = latest WHERE name = 'tensor';
    INSERT INTO past_payload
    SELECT p.seq, p.bytes FROM deleted AS d JOIN past_tensor USING (seq) JOIN payload AS p USING (seq);
    INSERT INTO past_attr (seq, key, ordinal, ds, num, txt)
    SELECT a.seq, a.key, a.ordinal, a.ds, a.num, a.txt
    FROM deleted AS d JOIN past_tensor USING (seq) JOIN attr AS a USING (seq);
  END IF;
  DELETE FROM payload USING deleted AS d WHERE payload.seq = d.seq;
  DELETE FROM attr USING deleted AS d WHERE attr.seq = d.seq;
  DELETE FROM content USING deleted AS d
  WHERE content.seq = d.seq AND d.inline = 0 AND NOT EXISTS (SELECT 1 FROM past_tensor AS p WHERE p.seq = d.seq);
  INSERT INTO history (ds, complete_from)
  SELECT DISTINCT d.ds, latest + 1 FROM deleted AS d
  WHERE NOT EXISTS (SELECT 1 FROM past_tensor AS p WHERE p.seq = d.seq)
    AND NOT EXISTS (SELECT 1 FROM history AS h WHERE h.ds = d.ds AND h.complete_from > latest)
  ON CONFLICT (ds) DO UPDATE SET complete_from = excluded.complete_from, complete_us = NULL;
  RETURN NULL;
END
$$;

CREATE TRIGGER tensor_deleted AFTER DELETE ON tensor REFERENCING OLD TABLE AS deleted
FOR EACH STATEMENT EXECUTE FUNCTION after_tensors_deleted();

CREATE FUNCTION after_past_tensors_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  DELETE FROM past_payload USING deleted AS d WHERE past_payload.seq = d.seq;
  DELETE FROM past_attr USING deleted AS d WHERE past_attr.seq = d.seq;
  DELETE FROM content USING deleted AS d WHERE content.seq = d.seq;
  INSERT INTO history (ds, complete_from, complete_us)
  SELECT DISTINCT ON (d.ds) d.ds, d.until_generation, d.until_us FROM deleted AS d
  WHERE d.ds IS NOT NULL ORDER BY d.ds, d.until_generation DESC
  ON CONFLICT (ds) DO UPDATE SET
    complete_us = CASE
      WHEN excluded.complete_from > history.complete_from THEN excluded.complete_us ELSE history.complete_us END,
    complete_from = greatest(history.complete_from, excluded.complete_from);
  RETURN NULL;
END
$$;

CREATE TRIGGER past_tensor_deleted AFTER DELETE ON past_tensor REFERENCING OLD TABLE AS deleted
FOR EACH STATEMENT EXECUTE FUNCTION after_past_tensors_deleted();

CREATE FUNCTION keep_reference() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (SELECT 1 FROM past_tensor WHERE seq = old.seq) THEN
    RETURN NULL;
  END IF;
  RETURN old;
END
$$;

CREATE TRIGGER reference_kept BEFORE DELETE ON reference FOR EACH ROW EXECUTE FUNCTION keep_reference();

-- No payload that something needs is marked for deletion, whoever tries.
CREATE FUNCTION mark_unneeded() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (SELECT 1 FROM reference AS r JOIN tensor USING (seq) WHERE r.key = new.key)
    OR EXISTS (SELECT 1 FROM reference AS r JOIN past_tensor USING (seq) WHERE r.key = new.key)
    OR EXISTS (SELECT 1 FROM past_tensor AS p WHERE p.key = new.key AND p.inline = 0)
    OR EXISTS (SELECT 1 FROM payload_base AS b WHERE b.base = new.key)
  THEN
    RETURN NULL;
  END IF;
  RETURN new;
END
$$;

CREATE TRIGGER tombstone_unreferenced BEFORE INSERT ON tombstone FOR EACH ROW EXECUTE FUNCTION mark_unneeded();

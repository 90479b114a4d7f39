-- The first schema. Times are in microseconds since 1970, JSON is stored as text, and keys are those of the chunk store.

CREATE TABLE dataset (
  ds INTEGER PRIMARY KEY AUTOINCREMENT,
  name TEXT NOT NULL UNIQUE,
  policy TEXT NOT NULL, -- JSON
  schema TEXT NOT NULL, -- JSON
  created_us INTEGER NOT NULL
) STRICT;

CREATE TABLE tensor (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, -- the generation: never reused
  ds INTEGER NOT NULL REFERENCES dataset (ds),
  id TEXT NOT NULL,
  dtype TEXT NOT NULL,
  dtype_number INTEGER NOT NULL,
  element_bytes INTEGER NOT NULL,
  shape TEXT NOT NULL, -- "[2, 3]"
  rank INTEGER NOT NULL,
  nbytes INTEGER NOT NULL, -- canonical
  quantized_bytes INTEGER NOT NULL,
  stored_bytes INTEGER NOT NULL,
  relative_error REAL NOT NULL,
  max_absolute_error REAL NOT NULL,
  lossy INTEGER NOT NULL,
  encodings TEXT NOT NULL, -- JSON
  fallback_reason TEXT NOT NULL,
  chunk_bytes INTEGER NOT NULL,
  created_us INTEGER NOT NULL,
  "min" REAL, -- of finite values; these five are NULL where there are none
  "max" REAL,
  mean REAL,
  standard_deviation REAL,
  l2_norm REAL,
  zero_count INTEGER, -- NULL: the dtype has no summary
  nan_count INTEGER,
  infinity_count INTEGER,
  policy TEXT, -- JSON; NULL: the dataset's
  source_algorithm TEXT NOT NULL,
  source_checksum BLOB NOT NULL,
  source_crc INTEGER NOT NULL, -- CRC32C of the same bytes: compares inserts whose checksums are of different algorithms
  value_algorithm TEXT NOT NULL,
  value_checksum BLOB NOT NULL,
  inline INTEGER NOT NULL, -- 1: the payload is in the table of that name
  key TEXT NOT NULL,
  offset INTEGER NOT NULL,
  length INTEGER NOT NULL,
  index_length INTEGER NOT NULL,
  index_crc INTEGER NOT NULL,
  row_crc INTEGER NOT NULL, -- over what reading the payload relies on
  metadata TEXT NOT NULL, -- JSON
  UNIQUE (ds, id)
) STRICT;

CREATE INDEX tensor_created ON tensor (ds, seq);
CREATE INDEX tensor_nbytes ON tensor (ds, nbytes, seq);
CREATE INDEX tensor_stored_bytes ON tensor (ds, stored_bytes, seq);
CREATE INDEX tensor_key ON tensor (key);

-- A table of its own, so that scans of the table tensor do not read payloads.
CREATE TABLE payload (
  seq INTEGER PRIMARY KEY REFERENCES tensor (seq) ON DELETE CASCADE,
  bytes BLOB NOT NULL
) STRICT;

-- The values that filters use: metadata, with one row for each element of a list, and dimensions as "@dim.0", ...
CREATE TABLE attr (
  seq INTEGER NOT NULL REFERENCES tensor (seq) ON DELETE CASCADE,
  key TEXT NOT NULL,
  ordinal INTEGER NOT NULL,
  ds INTEGER NOT NULL,
  num REAL,
  txt TEXT,
  PRIMARY KEY (seq, key, ordinal)
) STRICT, WITHOUT ROWID;

CREATE INDEX attr_num ON attr (ds, key, num, seq);
CREATE INDEX attr_txt ON attr (ds, key, txt, seq) WHERE txt IS NOT NULL;

-- Payloads of deleted tensors. Readers that began before the deletion may still need them.
CREATE TABLE tombstone (
  key TEXT PRIMARY KEY,
  delete_after_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX tombstone_due ON tombstone (delete_after_us);

-- Uploads that can be resumed, and the tensors that they became, until they expire.
CREATE TABLE upload (
  request_id TEXT NOT NULL,
  item INTEGER NOT NULL,
  ds INTEGER NOT NULL,
  id TEXT NOT NULL,
  dtype_number INTEGER NOT NULL,
  element_bytes INTEGER NOT NULL,
  shape TEXT NOT NULL, -- "[2,3]"
  policy TEXT NOT NULL, -- JSON; as it was when the upload began
  payload_key TEXT NOT NULL,
  committed_bytes INTEGER NOT NULL, -- canonical
  stored_bytes INTEGER NOT NULL, -- of the payload so far
  chunk_count INTEGER NOT NULL,
  state TEXT NOT NULL, -- JSON: what was measured so far
  generation INTEGER, -- of the tensor that it became
  expires_us INTEGER NOT NULL,
  PRIMARY KEY (request_id, item)
) STRICT, WITHOUT ROWID;

CREATE INDEX upload_expiry ON upload (expires_us);
CREATE INDEX upload_payload ON upload (payload_key);

-- The chunk index of an upload so far, with one row per mark.
CREATE TABLE upload_chunks (
  request_id TEXT NOT NULL,
  item INTEGER NOT NULL,
  first_chunk INTEGER NOT NULL,
  entries BLOB NOT NULL, -- stored bytes and CRC32C of each chunk, uint32 little-endian
  PRIMARY KEY (request_id, item, first_chunk)
) STRICT, WITHOUT ROWID;

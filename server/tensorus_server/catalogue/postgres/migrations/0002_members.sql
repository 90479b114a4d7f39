-- Adds what lets any number of processes on different machines share one store; see SQLite's migration 0011.

-- The processes that use the store. Each renews its row; whoever finds one that has expired may delete it.
CREATE TABLE member (
  member bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, -- never reused
  name text COLLATE "C" NOT NULL, -- for people: host and process
  expires_us bigint NOT NULL
) WITH (fillfactor = 50);

-- What one process at a time may do: 'sweep', 'edit/<hash>', 'insert/<request id>'.
CREATE TABLE lease (
  ticket bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, -- the newest that was issued for the name; never reused
  name text COLLATE "C" NOT NULL UNIQUE,
  member bigint, -- who has it; NULL: nobody
  wanter bigint -- who has asked for it, under this ticket; NULL: nobody
);

CREATE INDEX lease_member ON lease (member);

-- Objects that may be in the object store although no row refers to them.
CREATE TABLE begun (
  key text COLLATE "C" PRIMARY KEY, -- a payload key, or 'pack/<name of the pack>'
  member bigint, -- who writes it; NULL: nobody, and it waits to be resumed
  generation bigint NOT NULL -- raised whenever another writer goes on
);

CREATE INDEX begun_member ON begun (member);

-- Objects with many small payloads, of which at least one was committed.
CREATE TABLE pack (
  pack text COLLATE "C" PRIMARY KEY,
  object_bytes bigint NOT NULL,
  sealed_us bigint NOT NULL, -- when the first payload in it was committed
  checked_us bigint -- when it was last looked at for dead payloads
);

CREATE INDEX pack_checked ON pack (checked_us);

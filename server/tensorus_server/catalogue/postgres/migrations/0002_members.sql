-- Adds what lets any number of processes on different machines share one store. A store in a folder leaves these tables empty.

-- The processes that use the store. Each renews its row; whoever finds one that has expired may delete it.
CREATE TABLE member (
  member BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, -- never reused
  name TEXT NOT NULL, -- for people: host and process
  expires_us BIGINT NOT NULL
);

-- What one process at a time may do: 'sweep', 'edit/<hash>', 'insert/<request id>'.
CREATE TABLE lease (
  ticket BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, -- the newest that was issued for the name; never reused
  name TEXT COLLATE "C" NOT NULL UNIQUE,
  member BIGINT, -- who has it; NULL: nobody
  wanter BIGINT -- who has asked for it, under this ticket; NULL: nobody
);

CREATE INDEX lease_member ON lease (member);

-- Objects that may be in the object store although no row refers to them.
CREATE TABLE begun (
  key TEXT COLLATE "C" PRIMARY KEY, -- a payload key, or 'pack/<name of the pack>'
  member BIGINT, -- who writes it; NULL: nobody, and it waits to be resumed
  generation BIGINT NOT NULL -- raised whenever another writer goes on
);

CREATE INDEX begun_member ON begun (member);

-- Objects with many small payloads, of which at least one was committed.
CREATE TABLE pack (
  pack TEXT COLLATE "C" PRIMARY KEY,
  object_bytes BIGINT NOT NULL,
  sealed_us BIGINT NOT NULL, -- when the first payload in it was committed
  checked_us BIGINT -- when it was last looked at for dead payloads
);

CREATE INDEX pack_checked ON pack (checked_us);

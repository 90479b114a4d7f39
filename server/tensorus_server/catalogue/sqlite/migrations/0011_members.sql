-- Adds what lets any number of processes on different machines share one store. A store in a folder leaves these tables empty.

-- The processes that use the store. Each renews its row; whoever finds one that has expired may delete it.
CREATE TABLE member (
  member INTEGER PRIMARY KEY AUTOINCREMENT, -- never reused
  name TEXT NOT NULL, -- for people: host and process
  expires_us INTEGER NOT NULL
) STRICT;

-- What one process at a time may do: 'sweep', 'edit/<hash>', 'insert/<request id>'.
CREATE TABLE lease (
  ticket INTEGER PRIMARY KEY AUTOINCREMENT, -- the newest that was issued for the name; never reused
  name TEXT NOT NULL UNIQUE,
  member INTEGER, -- who has it; NULL: nobody
  wanter INTEGER -- who has asked for it, under this ticket; NULL: nobody
) STRICT;

CREATE INDEX lease_member ON lease (member);

-- Objects that may be in the object store although no row refers to them.
CREATE TABLE begun (
  key TEXT PRIMARY KEY, -- a payload key, or 'pack/<name of the pack>'
  member INTEGER, -- who writes it; NULL: nobody, and it waits to be resumed
  generation INTEGER NOT NULL -- raised whenever another writer goes on
) STRICT, WITHOUT ROWID;

CREATE INDEX begun_member ON begun (member);

-- Objects with many small payloads, of which at least one was committed.
CREATE TABLE pack (
  pack TEXT PRIMARY KEY,
  object_bytes INTEGER NOT NULL,
  sealed_us INTEGER NOT NULL, -- when the first payload in it was committed
  checked_us INTEGER -- when it was last looked at for dead payloads
) STRICT, WITHOUT ROWID;

CREATE INDEX pack_checked ON pack (checked_us);

-- Limits the index of keys to payloads in the chunk store, the only ones that are looked up by key. Keys of inline payloads are
-- random, so every insert wrote to another place in the index. Its cost grew with the number of tensors: from 32 to 63
-- microseconds over 60,000 of them.

DROP INDEX tensor_key;
CREATE INDEX tensor_key ON tensor (key) WHERE inline = 0;

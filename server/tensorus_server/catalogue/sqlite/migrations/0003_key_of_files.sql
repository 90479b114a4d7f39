-- Keys are looked up of payloads in the chunk store alone. Of inline ones, whose keys are random, every insert wrote to another
-- place in the index, at a cost that grew with the number of tensors: from 32 to 63 microseconds over 60,000 of them.

DROP INDEX tensor_key;
CREATE INDEX tensor_key ON tensor (key) WHERE inline = 0;

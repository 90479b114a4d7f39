-- A dataset that is deleted is gone at once, and its tensors go batch by batch. Until then its row stays, since they refer to it,
-- under a name that no dataset can have.

ALTER TABLE dataset ADD COLUMN deleted_us INTEGER; -- NULL: it is there

CREATE INDEX dataset_deleted ON dataset (deleted_us) WHERE deleted_us IS NOT NULL;

-- Lets datasets be deleted at once, and their tensors in batches. Until all are deleted, the dataset's row stays, because they
-- refer to it, under a name that no dataset can have.

ALTER TABLE dataset ADD COLUMN deleted_us INTEGER; -- NULL: it was not deleted

CREATE INDEX dataset_deleted ON dataset (deleted_us) WHERE deleted_us IS NOT NULL;

"""Reads the dataset files of Tensorus 0.1, and stores them through a client.

Reading uses no gRPC, no SQL, no torch and nothing of the server, and runs nothing that is in a file. The rules for ids and
metadata are the contract's (`tensorus_protos.rules`).

    storing.py                              stores a file's records through any client
    tensorus_files.py                       a dataset: its generation, and its records, one at a time
      record_ids.py                         a record's id
      metadata.py, metadata_values.py       its metadata; NumPy scalars, times, sets in it
      schema.py                             the dataset's schema
      record_values.py                      a record's values
        compressors.py                      gzip, lz4
        quantizers.py                       what int8 and fp16 codes stand for, and what they lost
    ----------------------------------- the modules below do not know Tensorus
    pt_tensors.py                           a tensor in a container of torch
    pt_pickle.py, pt_values.py              its pickle, read without running it
    pt_container.py, zip_directory.py       its members

`report.py` says what became of every record and file, `errors.py` what can be wrong with one. This package exports what readers
return; it does not import `storing.py`, so that reading old bytes loads no client.
"""

from __future__ import annotations

from tensorus.old_files.errors import OldDataError, OldFileError, OldRecordError
from tensorus.old_files.metadata import DroppedValue
from tensorus.old_files.report import DroppedCount, FileReport, ImportSummary, RecordOutcome, Status
from tensorus.old_files.schema import OldSchema
from tensorus.old_files.tensorus_files import OldDataset, OldRecord

__all__ = [
    "DroppedCount",
    "DroppedValue",
    "FileReport",
    "ImportSummary",
    "OldDataError",
    "OldDataset",
    "OldFileError",
    "OldRecord",
    "OldRecordError",
    "OldSchema",
    "RecordOutcome",
    "Status",
]

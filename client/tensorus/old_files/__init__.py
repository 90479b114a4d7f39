"""Readers of what other versions wrote: the dataset files of Tensorus 0.1.

No gRPC, no SQL, no torch; nothing in a file is run.

    tensorus_files.py                       a dataset: its generation, and its records, one at a time
      record_ids.py, old_metadata.py,       a record's id and metadata; the dataset's schema; NumPy scalars, times, sets
      old_schema.py, old_values.py
      old_records.py                        a record's values
        old_compressors.py                  gzip, lz4
        old_quantizers.py                   what int8 and fp16 codes stand for, and what they lost
    ----------------------------------- below, nothing knows of Tensorus
    pt_tensors.py                           a tensor in a container of torch
    pt_pickle.py, pt_values.py              its pickle, read without running it
    pt_container.py, zip_directory.py       its members

`report.py` says what became of everything, `errors.py` what can be wrong. Storing what is read is the client's: see
`tensorus/_import.py`.
"""

from __future__ import annotations

from tensorus.old_files.errors import OldDataError, OldFileError, OldRecordError
from tensorus.old_files.old_metadata import DroppedValue
from tensorus.old_files.old_schema import OldSchema
from tensorus.old_files.report import DroppedCount, FileReport, ImportSummary, RecordOutcome, Status
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

"""Every limit, with its unit in its name and where its number comes from. All are announced by GetCapabilities.

A limit is checked before anything of its size is allocated. docs/PROTOCOL.md has the same table, and a test compares them.

Limits that clients check as well are defined in `tensorus_protos.limits`, those of chunks in `tensorus_codecs`.
"""

from __future__ import annotations

from tensorus_codecs.chunk_record import CANONICAL_BYTES_MAX
from tensorus_codecs.policy import CHUNK_BYTES_DEFAULT, CHUNK_BYTES_MIN
from tensorus_protos.limits import (
    ID_BYTES_MAX,
    METADATA_BYTES_MAX,
    METADATA_DEPTH_MAX,
    METADATA_KEY_BYTES_MAX,
    RANK_MAX,
)

__all__ = [
    "ANSWER_BYTES_MAX",
    "BATCH_S",
    "CHUNK_BYTES_DEFAULT",
    "CHUNK_BYTES_MAX",
    "CHUNK_BYTES_MIN",
    "COMMIT_GROUP_MAX",
    "DATASET_NAME_BYTES_MAX",
    "EXPLAIN_BYTES_MAX",
    "EXPLAIN_CANDIDATES_MAX",
    "EXPLAIN_STREAM_BYTES",
    "FILTER_CONDITIONS_MAX",
    "FILTER_DEPTH_MAX",
    "FILTER_TEXT_BYTES_MAX",
    "FILTER_VALUES_MAX",
    "FILTER_VALUES_TOTAL_MAX",
    "IDS_PER_DELETE_MAX",
    "ID_BYTES_MAX",
    "INDEXED_TEXT_BYTES_MAX",
    "INDEXED_VALUES_MAX",
    "INDEX_CACHE_BYTES",
    "INLINE_BYTES_MAX",
    "INSERT_STREAM_BYTES",
    "ITEMS_TOGETHER_MAX",
    "MARK_EVERY_BYTES",
    "MESSAGE_BYTES_MAX",
    "METADATA_BYTES_MAX",
    "METADATA_DEPTH_MAX",
    "METADATA_KEY_BYTES_MAX",
    "OPEN_ITEMS_MAX",
    "PAGE_READ_BYTES",
    "PAGE_SIZE_DEFAULT",
    "PAGE_SIZE_MAX",
    "PAYLOAD_BYTES_MAX",
    "PAYLOAD_BYTES_MIN",
    "PAYLOAD_BYTES_TARGET",
    "RANK_MAX",
    "READS_PER_GET_MAX",
    "READ_STREAM_BYTES",
    "RECEIVED_MESSAGE_BYTES_MAX",
    "REQUEST_ID_BYTES_MAX",
    "RESUMABLE_BYTES_MIN",
    "SAMPLE_MAX",
    "SEGMENTS_PER_MESSAGE_MAX",
    "SMALL_READ_BYTES",
    "STATEMENT_TIMEOUT_S",
    "SYNC_EVERY_BYTES",
    "TENSOR_BYTES_MAX",
    "UNACKNOWLEDGED_BYTES_MAX",
    "UNCOMMITTED_BYTES_MAX",
    "UNCOMMITTED_ITEMS_MAX",
]

CHUNK_BYTES_MAX = CANONICAL_BYTES_MAX
"""Canonical bytes of a chunk. Fixed by the chunk record."""

PAYLOAD_BYTES_MAX = CHUNK_BYTES_MAX
"""Payload of one message: a chunk of the largest size, and so always below half of `MESSAGE_BYTES_MAX`."""

PAYLOAD_BYTES_MIN = 64 * 1024
"""Smallest payload that a reader may ask for: smaller messages cost more to frame than to carry."""

PAYLOAD_BYTES_TARGET = 1024 * 1024
"""Payload at which the server sends a message. Measured: 1 MiB moves fastest through grpcio (`make bench`, group transport)."""

MESSAGE_BYTES_MAX = 4 * 1024 * 1024
"""What every gRPC implementation accepts by default."""

ANSWER_BYTES_MAX = MESSAGE_BYTES_MAX // 2
"""Entries of one page, or of one message that lists something: half of what every client accepts. An entry of the largest size
fits beside everything else that the message may have."""

RECEIVED_MESSAGE_BYTES_MAX = 2 * MESSAGE_BYTES_MAX
"""What the transport lets in, so that a message just above the limit is refused with a reason, and not by the transport."""

SEGMENTS_PER_MESSAGE_MAX = 4096
"""A message of 4 KiB tensors up to the payload limit has 512; this leaves room for tiny ones."""

UNACKNOWLEDGED_BYTES_MAX = 16 * 1024 * 1024
"""Payload a sender may have on the way: a few times what is acknowledged at once, so that it never waits on a fast network."""

TENSOR_BYTES_MAX = 1024**4
"""Canonical bytes of a tensor: its chunk index, 8 bytes a chunk, then has 8 MiB at the default chunk size."""

REQUEST_ID_BYTES_MAX = 128
"""UTF-8 bytes of a request's id: a UUID has 36."""

DATASET_NAME_BYTES_MAX = 255
"""UTF-8 bytes of a dataset's name: what file systems allow a name, for those who export."""

INDEXED_TEXT_BYTES_MAX = 1024
"""UTF-8 bytes of a text value that comparisons see; a longer one only exists. PostgreSQL's index rows hold about 2.7 KB."""

INDEXED_VALUES_MAX = 256
"""Values of one tensor's metadata in the index. Measured: a value costs the committer 8 microseconds, so that the largest
metadata, 32,000 numbers in a list, would take 0.3 s of everybody's time. A filter on what is left out reads the metadata."""

FILTER_DEPTH_MAX = 8
"""Nested filters."""

FILTER_TEXT_BYTES_MAX = 64 * 1024
"""UTF-8 bytes of a filter as text: enough for every filter within the other limits that a person would write."""

FILTER_CONDITIONS_MAX = 64
"""Conditions in one filter."""

FILTER_VALUES_MAX = 1000
"""Values of one `one_of`. With 64 conditions, below the 32,766 parameters that SQLite binds only for few of them, hence
`FILTER_VALUES_TOTAL_MAX`."""

FILTER_VALUES_TOTAL_MAX = 4096
"""Values of all `one_of` of one filter."""

PAGE_SIZE_DEFAULT = 100
"""Entries of a page where the caller does not say."""

PAGE_SIZE_MAX = 1000
"""Entries of a page. Large ones end it earlier: see `ANSWER_BYTES_MAX` and `PAGE_READ_BYTES`."""

PAGE_READ_BYTES = 4 * 1024 * 1024
"""Metadata and payloads of the rows that are read at once. As Python's objects they take up to twenty times as much."""

SAMPLE_MAX = 1_000_000
"""Tensors of one sample: their numbers are held in memory until they are served."""

READS_PER_GET_MAX = 10_000
"""Reads of one Get: their ids are held in memory until they are served."""

IDS_PER_DELETE_MAX = 10_000
"""Ids of one DeleteTensors: their answer and their statements stay bounded."""

OPEN_ITEMS_MAX = 16
"""Tensors of one stream that have begun and not ended: each may hold a part of a chunk in memory."""

UNCOMMITTED_ITEMS_MAX = 1024
"""Tensors of one stream that wait for their commit: two groups' worth, so that one is made while the other is committed."""

UNCOMMITTED_BYTES_MAX = 8 * 1024 * 1024
"""Stored bytes of them in memory: twice as many tensors of 4 KiB as may wait. A larger one goes alone."""

ITEMS_TOGETHER_MAX = 4096
"""Tensors of one insert that stores all or nothing: one transaction, and its rows in memory until then."""

INLINE_BYTES_MAX = 64 * 1024
"""Stored bytes up to which a tensor is kept in the catalogue. Measured: rows win 2.6 times at 64 KiB and lose 2.4 times at
1 MiB against files of their own; SQLite's published crossover is about 100 KB."""

SYNC_EVERY_BYTES = 32 * 1024 * 1024
"""How much of a payload may wait for its fdatasync: the last one, before the acknowledgement, is then short."""

INSERT_STREAM_BYTES = 24 * 1024 * 1024
"""What an Insert borrows of the memory budget: chunks under way, raw and encoded, the message at hand, and 8 MiB that the
transport may hold. Measured: a server grows by 21 to 43 MiB for its first transfer, and by less for the next."""

READ_STREAM_BYTES = 12 * 1024 * 1024
"""What a Get or Query borrows: records read ahead, decoded and as stored, and what the transport holds of a slow reader."""

SMALL_READ_BYTES = 256 * 1024
"""Canonical bytes of all tensors up to which a Get or Query borrows nothing: a short answer does not wait for transfers. 64
such reads at once, each cast to a dtype eight times as wide, hold 128 MiB."""

EXPLAIN_BYTES_MAX = 64 * 1024 * 1024
"""Canonical bytes of the sample of an ExplainPolicy: 64 chunks of the default size, after which ratio and error hardly move."""

EXPLAIN_CANDIDATES_MAX = 32
"""Candidates of one ExplainPolicy: every preset under two error contracts. With the largest sample and the slowest codecs that
is half an hour of one core, for as long as the caller waits."""

EXPLAIN_STREAM_BYTES = EXPLAIN_BYTES_MAX + 24 * 1024 * 1024
"""What an ExplainPolicy borrows of the memory budget: the sample, records, the chunk at hand and what the transport holds.
Measured: a server grows by 81 to 87 MiB for the largest sample."""

RESUMABLE_BYTES_MIN = 32 * 1024 * 1024
"""Canonical bytes above which a tensor is marked on its way in; a smaller one starts over when its insert is interrupted."""

MARK_EVERY_BYTES = 8 * 1024 * 1024
"""Canonical bytes from mark to mark. One may be under way while the next is due, and the sender may be another
`UNACKNOWLEDGED_BYTES_MAX` ahead: so at most 32 MiB are sent twice."""

COMMIT_GROUP_MAX = 512
"""Tensors that share one commit, and so one sync of the catalogue's log. Measured, 4 KiB each: a fifth less time for each than
with 256, and a commit still takes below 50 ms."""

INDEX_CACHE_BYTES = 16 * 1024 * 1024
"""Chunk indexes of large payloads that are kept for the next read: as of two tensors of the largest size, in default chunks."""

BATCH_S = 0.02
"""How long a transaction of a deletion in batches deletes: inserts wait for no more than that and its commit."""

STATEMENT_TIMEOUT_S = 5.0
"""How long one statement of a query may run."""

"""All limits, each with its unit in its name and the source of its number. GetCapabilities returns those that clients can meet.

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
    SNAPSHOT_NAME_BYTES_MAX,
)

__all__ = [
    "ANSWER_BYTES_MAX",
    "BATCH_S",
    "CHUNK_BYTES_DEFAULT",
    "CHUNK_BYTES_MAX",
    "CHUNK_BYTES_MIN",
    "COMMIT_GROUP_MAX",
    "COPIES_PER_CALL_MAX",
    "DATASET_COPY_TENSORS_MAX",
    "DATASET_NAME_BYTES_MAX",
    "DETAILS_CACHE_BYTES",
    "EDIT_COPIED_BYTES_MAX",
    "EDIT_HELD_BYTES_MAX",
    "EDIT_TIMEOUT_S",
    "EXPLAIN_BYTES_MAX",
    "EXPLAIN_CANDIDATES_MAX",
    "EXPLAIN_STREAM_BYTES",
    "FILTER_CONDITIONS_MAX",
    "FILTER_DEPTH_MAX",
    "FILTER_TEXT_BYTES_MAX",
    "FILTER_VALUES_MAX",
    "FILTER_VALUES_TOTAL_MAX",
    "GRANTS_MAX",
    "IDS_PER_DELETE_MAX",
    "ID_BYTES_MAX",
    "INDEXED_TEXT_BYTES_MAX",
    "INDEXED_VALUES_MAX",
    "INDEX_CACHE_BYTES",
    "INLINE_BYTES_MAX",
    "INSERT_STREAM_BYTES",
    "ITEMS_TOGETHER_MAX",
    "KNOWN_PER_INSERT_MAX",
    "MARK_EVERY_BYTES",
    "MEMBER_LEASE_S",
    "MEMBER_RENEW_S",
    "MESSAGE_BYTES_MAX",
    "METADATA_BYTES_MAX",
    "METADATA_DEPTH_MAX",
    "METADATA_KEY_BYTES_MAX",
    "MOVED_ROWS_MAX",
    "OPEN_ITEMS_MAX",
    "PACKED_BYTES_MAX",
    "PACK_BYTES_MAX",
    "PAGE_READ_BYTES",
    "PAGE_SIZE_DEFAULT",
    "PAGE_SIZE_MAX",
    "PAYLOAD_BYTES_MAX",
    "PAYLOAD_BYTES_MIN",
    "PAYLOAD_BYTES_TARGET",
    "PLANS_PER_CALL_MAX",
    "PUT_MARGIN_S",
    "PUT_TIMEOUT_S",
    "QUOTAS_MAX",
    "RANK_MAX",
    "READS_PER_GET_MAX",
    "READ_AHEAD_BYTES",
    "READ_STREAM_BYTES",
    "RECEIVED_MESSAGE_BYTES_MAX",
    "REQUEST_ID_BYTES_MAX",
    "RESTORED_TENSORS_MAX",
    "RESUMABLE_BYTES_MIN",
    "RETENTION_S_MAX",
    "SAMPLE_MAX",
    "SEGMENTS_PER_MESSAGE_MAX",
    "SEGMENT_OBJECT_BYTES",
    "SMALL_READ_BYTES",
    "SNAPSHOT_NAME_BYTES_MAX",
    "STATEMENT_TIMEOUT_S",
    "SYNC_EVERY_BYTES",
    "TENSOR_BYTES_MAX",
    "TENSOR_PAYLOADS_MAX",
    "TOKENS_MAX",
    "TOKEN_NOTE_BYTES_MAX",
    "TOKEN_SCOPES_MAX",
    "UNACKNOWLEDGED_BYTES_MAX",
    "UNCOMMITTED_BYTES_MAX",
    "UNCOMMITTED_ITEMS_MAX",
]

CHUNK_BYTES_MAX = CANONICAL_BYTES_MAX
"""Canonical bytes of a chunk. The chunk record sets this limit."""

PAYLOAD_BYTES_MAX = CHUNK_BYTES_MAX
"""Payload of one message: the largest chunk, so it is at most half of `MESSAGE_BYTES_MAX`."""

PAYLOAD_BYTES_MIN = 64 * 1024
"""Smallest payload limit that a reader may request: with smaller messages, framing costs more than the data."""

PAYLOAD_BYTES_TARGET = 1024 * 1024
"""Payload at which the server sends a message. Measured: grpcio is fastest at 1 MiB (`make bench`, group transport)."""

MESSAGE_BYTES_MAX = 4 * 1024 * 1024
"""Size of a message: what every gRPC implementation accepts by default."""

ANSWER_BYTES_MAX = MESSAGE_BYTES_MAX // 2
"""Size of the entries of one page, or of one message that lists something: half of what every client accepts. The other half is
room for one more entry of the largest size and the message's other fields."""

RECEIVED_MESSAGE_BYTES_MAX = 2 * MESSAGE_BYTES_MAX
"""What the transport accepts. It is above the limit, so that the service can refuse too large a message with a reason."""

SEGMENTS_PER_MESSAGE_MAX = 4096
"""Segments of a message. A full message of 4 KiB tensors has 512; this leaves room for smaller ones."""

UNACKNOWLEDGED_BYTES_MAX = 16 * 1024 * 1024
"""Payload bytes that a sender may have in flight: a few times the acknowledgement interval, so that a fast network never
waits."""

TENSOR_BYTES_MAX = 1024**4
"""Canonical bytes of a tensor. At the default chunk size, the chunk index of the largest one takes 8 MiB."""

REQUEST_ID_BYTES_MAX = 128
"""UTF-8 bytes of a request id. A UUID has 36."""

DATASET_NAME_BYTES_MAX = 255
"""UTF-8 bytes of a dataset's name: the limit of file systems for a name, so that an export can use it."""

INDEXED_TEXT_BYTES_MAX = 1024
"""UTF-8 bytes of a text that can be compared; a longer one only exists for filters. PostgreSQL's index rows hold about 2.7
KB."""

INDEXED_VALUES_MAX = 256
"""Values of one tensor's metadata in the index. Measured: a value costs the committer 8 microseconds, so the largest metadata,
a list of 32,000 numbers, would block all streams for 0.3 s. A filter on a key that is left out reads the metadata instead."""

FILTER_DEPTH_MAX = 8
"""Nesting of filters."""

FILTER_TEXT_BYTES_MAX = 64 * 1024
"""UTF-8 bytes of a filter as text: enough for any filter within the other limits that a person would write."""

FILTER_CONDITIONS_MAX = 64
"""Conditions of one filter."""

FILTER_VALUES_MAX = 1000
"""Values of one `one_of`. With many conditions, a filter could exceed the 32,766 parameters that SQLite allows, hence
`FILTER_VALUES_TOTAL_MAX`."""

FILTER_VALUES_TOTAL_MAX = 4096
"""Values of all `one_of` in one filter."""

PAGE_SIZE_DEFAULT = 100
"""Entries of a page if the caller does not specify a number."""

PAGE_SIZE_MAX = 1000
"""Entries of a page. Large entries end it earlier: see `ANSWER_BYTES_MAX` and `PAGE_READ_BYTES`."""

PAGE_READ_BYTES = 4 * 1024 * 1024
"""Metadata and payloads of rows that are read at once. As Python objects, they take up to twenty times as much memory."""

SAMPLE_MAX = 1_000_000
"""Tensors of one sample, whose numbers are in memory until they have been sent."""

READS_PER_GET_MAX = 10_000
"""Reads of one Get, whose ids are in memory until they have been answered."""

IDS_PER_DELETE_MAX = 10_000
"""Ids of one DeleteTensors. It bounds the answer and the transaction."""

KNOWN_PER_INSERT_MAX = 1000
"""Tensors of one InsertKnown. It bounds the answer, and the transaction to some 50 ms."""
COPIES_PER_CALL_MAX = 1000
"""Tensors of one CopyTensors. Their rows, with inline payloads of up to 64 MiB, are in memory until one transaction commits
them."""

DATASET_COPY_TENSORS_MAX = 100_000
"""Tensors of one CopyDataset. Measured: a small one takes 0.1 ms, and other writers wait until the transaction ends."""

RESTORED_TENSORS_MAX = 100_000
"""Tensors that one restore brings back or deletes, in one transaction."""

RETENTION_S_MAX = 100 * 366 * 86_400
"""Retention of a dataset: a century, which is longer than anybody waits and fits every clock."""

OPEN_ITEMS_MAX = 16
"""Unfinished tensors of one stream. Each may hold part of a chunk in memory."""

UNCOMMITTED_ITEMS_MAX = 1024
"""Tensors of one stream that wait for their commit: two groups, so that one fills while the other is committed."""

UNCOMMITTED_BYTES_MAX = 8 * 1024 * 1024
"""Stored bytes in memory of tensors that wait for their commit: enough for twice `UNCOMMITTED_ITEMS_MAX` tensors of 4 KiB. A
batch above the limit is admitted only alone."""

ITEMS_TOGETHER_MAX = 4096
"""Tensors of one all-or-nothing insert. Their rows are in memory until a single transaction commits them."""

INLINE_BYTES_MAX = 64 * 1024
"""Stored bytes up to which a tensor is stored in the catalogue. Measured: compared with separate files, rows are 2.6 times as
fast at 64 KiB and 2.4 times as slow at 1 MiB; SQLite's published crossover is about 100 KB."""

SYNC_EVERY_BYTES = 32 * 1024 * 1024
"""Bytes of a payload that may be unsynced. It keeps the last fdatasync, which the commit waits for, short."""

INSERT_STREAM_BYTES = 24 * 1024 * 1024
"""Memory that an Insert reserves: for chunks in flight, raw and encoded, the current message, and 8 MiB that the transport may
buffer. Measured: a server grows by 21 to 43 MiB for its first transfer, and by less for the next ones."""

READ_STREAM_BYTES = 12 * 1024 * 1024
"""Memory that a Get or Query reserves: for records read ahead, stored and decoded, and what the transport buffers for a slow
client."""

SMALL_READ_BYTES = 256 * 1024
"""Canonical bytes up to which a Get or Query reserves no memory, so that short answers do not wait for transfers. 64 concurrent
reads of this size, each cast to a dtype eight times as wide, use 128 MiB."""

EXPLAIN_BYTES_MAX = 64 * 1024 * 1024
"""Canonical bytes of an ExplainPolicy's sample: 64 chunks of the default size. A larger one hardly changes ratio and error."""

EXPLAIN_CANDIDATES_MAX = 32
"""Candidates of one ExplainPolicy: every preset with two error contracts. With the largest sample and the slowest codecs, they
keep one core busy for half an hour, or until the caller leaves."""

EXPLAIN_STREAM_BYTES = EXPLAIN_BYTES_MAX + 24 * 1024 * 1024
"""Memory that an ExplainPolicy reserves: for the sample, records, the current chunk and what the transport buffers. Measured: a
server grows by 81 to 87 MiB for the largest sample."""

RESUMABLE_BYTES_MIN = 32 * 1024 * 1024
"""Canonical bytes above which an upload gets marks; a smaller tensor is sent again from its start if its insert is
interrupted."""

MARK_EVERY_BYTES = 8 * 1024 * 1024
"""Canonical bytes between marks. One mark may be in flight when the next is due, and the sender may be another
`UNACKNOWLEDGED_BYTES_MAX` ahead. So at most 32 MiB are sent twice."""

COMMIT_GROUP_MAX = 512
"""Tensors that share one commit, and so one fsync of the catalogue's log. Measured with 4 KiB each: they take a fifth less time
than with 256, and a commit still takes less than 50 ms."""

INDEX_CACHE_BYTES = 16 * 1024 * 1024
"""Size of the cache of chunk indexes and tables: enough for the indexes of two tensors of the largest size with default
chunks."""

BATCH_S = 0.02
"""How long one batch of a background deletion takes, without its commit. Inserts wait no longer than for one batch."""

MOVED_ROWS_MAX = 1000
"""Tensors that may share a payload that is moved to another pack. All of them are changed in one transaction, which takes less
than 0.1 s for so many (measured)."""

STATEMENT_TIMEOUT_S = 5.0
"""How long one statement of a query may run."""

PLANS_PER_CALL_MAX = 64
"""Tensors of one GetPlan."""

EDIT_HELD_BYTES_MAX = CHUNK_BYTES_DEFAULT
"""Canonical bytes up to which an edit is held in memory until it has the tensor for itself. A larger one is encoded as it
arrives, and has to be sent again if another edit changes the same chunks meanwhile."""

EDIT_TIMEOUT_S = 30.0
"""How long an edit waits for other edits of the same tensor."""

EDIT_COPIED_BYTES_MAX = 256 * 1024 * 1024
"""Stored bytes of unchanged chunks that one edit copies, so that a tensor does not end up in too many payloads."""

TENSOR_PAYLOADS_MAX = 4096
"""Payloads of one tensor. A tensor with more than 64 gets its smallest ones copied together, so only one of a terabyte that
grows in steps of a fourth of a gigabyte comes to this limit."""

DETAILS_CACHE_BYTES = 16 * 1024 * 1024
"""Size of the cache of chunk details: it holds those of 160,000 chunks, with the default size of 160 GiB."""

PUT_TIMEOUT_S = 30.0
"""How long one PUT of an object may take, without its repetitions: a segment of 16 MiB at 4.5 Mbit/s. A process that was
declared dead sends no new one, but the last may still arrive."""

PUT_MARGIN_S = 5.0
"""How much later than `PUT_TIMEOUT_S` objects that a dead process had begun are deleted."""

PACKED_BYTES_MAX = 4 * 1024 * 1024
"""Stored bytes up to which an object store puts a payload into a pack. An object of this size takes longer to transfer than to
request, on a connection of 80 MB/s with 50 ms per request."""

PACK_BYTES_MAX = 16 * 1024 * 1024
"""Stored bytes of the payloads of one pack. A million tensors of 4 KiB, if they are not inline, then cost 256 requests."""

SEGMENT_OBJECT_BYTES = 8 * 1024 * 1024
"""About the stored bytes at which an object store completes an object of a larger payload. Three of them may be in memory per
payload: two on their way, and one that grows."""

READ_AHEAD_BYTES = 16 * 1024 * 1024
"""Stored bytes that a read requests ahead from an object store: on 50 ms per request, 320 MB/s."""

MEMBER_LEASE_S = 15.0
"""How long after its last renewal a process that shares a store may be declared dead: several times what a database needs to
start again, and not longer than people wait for an insert to go on elsewhere."""

MEMBER_RENEW_S = 5.0
"""How often such a process renews; two renewals in a row may fail."""

TOKENS_MAX = 10_000
"""Tokens of a store, also revoked and expired ones, until they are forgotten. Every process that serves has all of them in
memory, and reads them anew after each change, which takes about 0.3 s for so many."""

TOKEN_NOTE_BYTES_MAX = 256
"""UTF-8 bytes of a token's note: two lines of text."""

TOKEN_SCOPES_MAX = 32
"""Scopes of a token. A call is compared with all of them."""

GRANTS_MAX = 10_000
"""Grants of a store, for the reason of `TOKENS_MAX`."""

QUOTAS_MAX = 10_000
"""Principals of a store that have a quota, for the reason of `TOKENS_MAX`."""

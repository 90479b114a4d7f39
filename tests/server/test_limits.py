"""Every limit has its unit in its name, a source in its docstring, and its place in GetCapabilities."""

from __future__ import annotations

import ast
from pathlib import Path

from support.cases import each
from tensorus_protos import limits as shared_limits
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_server import limits
from tensorus_server.rpc.capabilities import announced_limits

UNITS = ("BYTES", "MAX", "S", "DEFAULT", "MIN", "TARGET")

ANNOUNCED = {
    "payload_bytes": "PAYLOAD_BYTES_MAX",
    "message_bytes": "MESSAGE_BYTES_MAX",
    "segments_per_message": "SEGMENTS_PER_MESSAGE_MAX",
    "chunk_bytes_min": "CHUNK_BYTES_MIN",
    "chunk_bytes_max": "CHUNK_BYTES_MAX",
    "chunk_bytes_default": "CHUNK_BYTES_DEFAULT",
    "tensor_bytes": "TENSOR_BYTES_MAX",
    "rank": "RANK_MAX",
    "id_bytes": "ID_BYTES_MAX",
    "dataset_name_bytes": "DATASET_NAME_BYTES_MAX",
    "metadata_bytes": "METADATA_BYTES_MAX",
    "metadata_depth": "METADATA_DEPTH_MAX",
    "filter_depth": "FILTER_DEPTH_MAX",
    "filter_conditions": "FILTER_CONDITIONS_MAX",
    "filter_values": "FILTER_VALUES_MAX",
    "page_size": "PAGE_SIZE_MAX",
    "reads_per_get": "READS_PER_GET_MAX",
    "ids_per_delete": "IDS_PER_DELETE_MAX",
    "payload_bytes_min": "PAYLOAD_BYTES_MIN",
    "unacknowledged_bytes": "UNACKNOWLEDGED_BYTES_MAX",
    "open_items": "OPEN_ITEMS_MAX",
    "items_together": "ITEMS_TOGETHER_MAX",
    "request_id_bytes": "REQUEST_ID_BYTES_MAX",
    "resumable_bytes_min": "RESUMABLE_BYTES_MIN",
    "metadata_key_bytes": "METADATA_KEY_BYTES_MAX",
    "indexed_text_bytes": "INDEXED_TEXT_BYTES_MAX",
    "filter_text_bytes": "FILTER_TEXT_BYTES_MAX",
    "filter_values_total": "FILTER_VALUES_TOTAL_MAX",
    "sample": "SAMPLE_MAX",
    "explain_bytes": "EXPLAIN_BYTES_MAX",
    "explain_candidates": "EXPLAIN_CANDIDATES_MAX",
    "known_per_insert": "KNOWN_PER_INSERT_MAX",
    "plans_per_call": "PLANS_PER_CALL_MAX",
    "copies_per_call": "COPIES_PER_CALL_MAX",
    "dataset_copy_tensors": "DATASET_COPY_TENSORS_MAX",
    "snapshot_name_bytes": "SNAPSHOT_NAME_BYTES_MAX",
    "restored_tensors": "RESTORED_TENSORS_MAX",
    "retention_s": "RETENTION_S_MAX",
}


def documented() -> dict[str, str]:
    """Return the docstring of each constant that the server defines, or shares with its clients."""
    found = {}
    for module in (limits, shared_limits):
        body = ast.parse(Path(module.__file__).read_text(encoding="utf-8")).body
        for statement, following in zip(body, [*body[1:], None], strict=True):
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                text = following.value if isinstance(following, ast.Expr) else None
                found[statement.targets[0].id] = text.value if isinstance(text, ast.Constant) else ""
    found.pop("__all__")
    return found


@each("name", sorted(documented()))
def test_a_limit_is_documented_public_and_positive(name: str) -> None:
    assert len(documented()[name].split()) >= 2
    assert name in limits.__all__
    assert getattr(limits, name) > 0
    assert name.endswith(UNITS)


def test_the_server_lists_every_limit_that_it_shares_with_its_clients() -> None:
    assert {name: getattr(limits, name) for name in shared_limits.__all__} == {
        name: getattr(shared_limits, name) for name in shared_limits.__all__
    }
    assert set(shared_limits.__all__) <= set(limits.__all__)


def test_every_public_name_exists() -> None:
    assert all(hasattr(limits, name) for name in limits.__all__)


def test_every_field_is_announced_with_its_limit() -> None:
    announced = announced_limits()
    assert {field.name for field in pb.Limits.DESCRIPTOR.fields} == set(ANNOUNCED)
    assert {field: getattr(announced, field) for field in ANNOUNCED} == {
        field: getattr(limits, name) for field, name in ANNOUNCED.items()
    }


def test_limits_fit_each_other() -> None:
    assert limits.CHUNK_BYTES_MIN <= limits.CHUNK_BYTES_DEFAULT <= limits.CHUNK_BYTES_MAX
    # A framed chunk fits into a message, and so does a payload.
    assert limits.CHUNK_BYTES_MAX <= limits.PAYLOAD_BYTES_MAX <= limits.MESSAGE_BYTES_MAX // 2
    assert limits.PAYLOAD_BYTES_MIN <= limits.PAYLOAD_BYTES_TARGET <= limits.PAYLOAD_BYTES_MAX
    assert limits.MESSAGE_BYTES_MAX < limits.RECEIVED_MESSAGE_BYTES_MAX
    # A sender that waits for credit can always send a whole payload.
    assert limits.UNACKNOWLEDGED_BYTES_MAX >= 2 * limits.PAYLOAD_BYTES_MAX
    # What is explained fits what the call borrows, with room for chunks and records.
    assert limits.EXPLAIN_STREAM_BYTES > limits.EXPLAIN_BYTES_MAX + 4 * limits.CHUNK_BYTES_MAX
    assert limits.FILTER_VALUES_MAX <= limits.FILTER_VALUES_TOTAL_MAX
    # SQLite binds so many parameters; a page has a few more than its values.
    assert limits.FILTER_VALUES_TOTAL_MAX + 3 * limits.FILTER_CONDITIONS_MAX < 32_766
    # A key and a text value fit one page of an index.
    assert limits.METADATA_KEY_BYTES_MAX + limits.INDEXED_TEXT_BYTES_MAX < 8192 // 2

"""Builds the answer to GetCapabilities: what this server can do."""

from __future__ import annotations

from importlib import metadata

from tensorus_codecs.abc import Compressor, Filter, Quantizer
from tensorus_codecs.presets import DEFAULT_PRESET, PRESETS
from tensorus_codecs.registry import available_codecs
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_server import limits
from tensorus_server.rpc.convert import encoding_to

__all__ = ["FEATURES", "capabilities"]

FEATURES = (
    "copies",
    "explain_policy",
    "explain_policy.base",
    "get.as_dtype",
    "get.at",
    "get.byte_ranges",
    "get.plan",
    "get.precision",
    "get.slices",
    "get.stored_encodings",
    "insert.all_or_nothing",
    "insert.base",
    "insert.edits",
    "insert.encoded_segments",
    "insert.known",
    "insert.replace",
    "insert.replace_any",
    "insert.resume",
    "insert.validate_only",
    "query.at",
    "query.filter_text",
    "query.resume",
    "query.sample",
    "read_only",
    "retention",
    "snapshots",
    "store_stats",
    "verify",
)
"""Optional parts of the contract that this version implements. `get.plan` is there only where it is offered, and `read_only`
only if the store is open for reading only, so that every call that writes fails with READ_ONLY."""

_KINDS = {
    Quantizer: pb.CodecInfo.KIND_QUANTIZER,
    Filter: pb.CodecInfo.KIND_FILTER,
    Compressor: pb.CodecInfo.KIND_COMPRESSOR,
}


def capabilities(*, direct_reads: bool = False, read_only: bool = False) -> pb.GetCapabilitiesResponse:
    """Return version, codecs, presets, limits and features.

    Args:
        direct_reads: whether plans of direct reads are offered.
        read_only: whether every call that writes is refused.
    """
    absent = {feature for feature, there in (("get.plan", direct_reads), ("read_only", read_only)) if not there}
    return pb.GetCapabilitiesResponse(
        version=metadata.version("tensorus"),
        codecs=[
            pb.CodecInfo(id=entry.id, kind=_KINDS[entry.kind], number=entry.number) for entry in available_codecs()
        ],
        presets=[
            pb.PresetInfo(
                id=name,
                description=preset.description,
                encoding=encoding_to(preset.typical),
                lossy=preset.lossy is not None,
            )
            for name, preset in PRESETS.items()
        ],
        default_preset=DEFAULT_PRESET,
        limits=announced_limits(),
        features=[feature for feature in FEATURES if feature not in absent],
    )


def announced_limits() -> pb.Limits:
    """Return the limits that apply to what clients send."""
    return pb.Limits(
        payload_bytes=limits.PAYLOAD_BYTES_MAX,
        message_bytes=limits.MESSAGE_BYTES_MAX,
        segments_per_message=limits.SEGMENTS_PER_MESSAGE_MAX,
        chunk_bytes_min=limits.CHUNK_BYTES_MIN,
        chunk_bytes_max=limits.CHUNK_BYTES_MAX,
        chunk_bytes_default=limits.CHUNK_BYTES_DEFAULT,
        tensor_bytes=limits.TENSOR_BYTES_MAX,
        rank=limits.RANK_MAX,
        id_bytes=limits.ID_BYTES_MAX,
        dataset_name_bytes=limits.DATASET_NAME_BYTES_MAX,
        metadata_bytes=limits.METADATA_BYTES_MAX,
        metadata_depth=limits.METADATA_DEPTH_MAX,
        filter_depth=limits.FILTER_DEPTH_MAX,
        filter_conditions=limits.FILTER_CONDITIONS_MAX,
        filter_values=limits.FILTER_VALUES_MAX,
        page_size=limits.PAGE_SIZE_MAX,
        reads_per_get=limits.READS_PER_GET_MAX,
        ids_per_delete=limits.IDS_PER_DELETE_MAX,
        payload_bytes_min=limits.PAYLOAD_BYTES_MIN,
        unacknowledged_bytes=limits.UNACKNOWLEDGED_BYTES_MAX,
        open_items=limits.OPEN_ITEMS_MAX,
        items_together=limits.ITEMS_TOGETHER_MAX,
        request_id_bytes=limits.REQUEST_ID_BYTES_MAX,
        resumable_bytes_min=limits.RESUMABLE_BYTES_MIN,
        metadata_key_bytes=limits.METADATA_KEY_BYTES_MAX,
        indexed_text_bytes=limits.INDEXED_TEXT_BYTES_MAX,
        filter_text_bytes=limits.FILTER_TEXT_BYTES_MAX,
        filter_values_total=limits.FILTER_VALUES_TOTAL_MAX,
        sample=limits.SAMPLE_MAX,
        explain_bytes=limits.EXPLAIN_BYTES_MAX,
        explain_candidates=limits.EXPLAIN_CANDIDATES_MAX,
        known_per_insert=limits.KNOWN_PER_INSERT_MAX,
        plans_per_call=limits.PLANS_PER_CALL_MAX,
        copies_per_call=limits.COPIES_PER_CALL_MAX,
        dataset_copy_tensors=limits.DATASET_COPY_TENSORS_MAX,
        snapshot_name_bytes=limits.SNAPSHOT_NAME_BYTES_MAX,
        restored_tensors=limits.RESTORED_TENSORS_MAX,
        retention_s=limits.RETENTION_S_MAX,
    )

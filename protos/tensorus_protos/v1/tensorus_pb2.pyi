from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.rpc import status_pb2 as _status_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DataType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DATA_TYPE_UNSPECIFIED: _ClassVar[DataType]
    DATA_TYPE_BOOL: _ClassVar[DataType]
    DATA_TYPE_UINT8: _ClassVar[DataType]
    DATA_TYPE_INT8: _ClassVar[DataType]
    DATA_TYPE_UINT16: _ClassVar[DataType]
    DATA_TYPE_INT16: _ClassVar[DataType]
    DATA_TYPE_UINT32: _ClassVar[DataType]
    DATA_TYPE_INT32: _ClassVar[DataType]
    DATA_TYPE_UINT64: _ClassVar[DataType]
    DATA_TYPE_INT64: _ClassVar[DataType]
    DATA_TYPE_FLOAT16: _ClassVar[DataType]
    DATA_TYPE_BFLOAT16: _ClassVar[DataType]
    DATA_TYPE_FLOAT32: _ClassVar[DataType]
    DATA_TYPE_FLOAT64: _ClassVar[DataType]
    DATA_TYPE_COMPLEX64: _ClassVar[DataType]
    DATA_TYPE_COMPLEX128: _ClassVar[DataType]
    DATA_TYPE_FLOAT8_E4M3FN: _ClassVar[DataType]
    DATA_TYPE_FLOAT8_E5M2: _ClassVar[DataType]

class MetadataType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    METADATA_TYPE_UNSPECIFIED: _ClassVar[MetadataType]
    METADATA_TYPE_BOOLEAN: _ClassVar[MetadataType]
    METADATA_TYPE_INTEGER: _ClassVar[MetadataType]
    METADATA_TYPE_NUMBER: _ClassVar[MetadataType]
    METADATA_TYPE_TEXT: _ClassVar[MetadataType]
    METADATA_TYPE_LIST: _ClassVar[MetadataType]
    METADATA_TYPE_MAP: _ClassVar[MetadataType]

class InsertOutcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    INSERT_OUTCOME_UNSPECIFIED: _ClassVar[InsertOutcome]
    INSERT_OUTCOME_INSERTED: _ClassVar[InsertOutcome]
    INSERT_OUTCOME_ALREADY_STORED: _ClassVar[InsertOutcome]
    INSERT_OUTCOME_REPLACED: _ClassVar[InsertOutcome]
    INSERT_OUTCOME_CHANGED: _ClassVar[InsertOutcome]

class Precision(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRECISION_UNSPECIFIED: _ClassVar[Precision]
    PRECISION_BF16: _ClassVar[Precision]

class Property(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PROPERTY_UNSPECIFIED: _ClassVar[Property]
    PROPERTY_ID: _ClassVar[Property]
    PROPERTY_DTYPE: _ClassVar[Property]
    PROPERTY_SHAPE: _ClassVar[Property]
    PROPERTY_RANK: _ClassVar[Property]
    PROPERTY_NBYTES: _ClassVar[Property]
    PROPERTY_STORED_BYTES: _ClassVar[Property]
    PROPERTY_CREATED: _ClassVar[Property]
    PROPERTY_MIN: _ClassVar[Property]
    PROPERTY_MAX: _ClassVar[Property]
    PROPERTY_MEAN: _ClassVar[Property]
    PROPERTY_STANDARD_DEVIATION: _ClassVar[Property]
    PROPERTY_L2_NORM: _ClassVar[Property]
    PROPERTY_ZERO_COUNT: _ClassVar[Property]
    PROPERTY_NAN_COUNT: _ClassVar[Property]
    PROPERTY_INFINITY_COUNT: _ClassVar[Property]

class ErrorReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ERROR_REASON_UNSPECIFIED: _ClassVar[ErrorReason]
    ERROR_REASON_DATASET_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_TENSOR_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_ALREADY_EXISTS: _ClassVar[ErrorReason]
    ERROR_REASON_SCHEMA_MISMATCH: _ClassVar[ErrorReason]
    ERROR_REASON_CHECKSUM_MISMATCH: _ClassVar[ErrorReason]
    ERROR_REASON_SIZE_MISMATCH: _ClassVar[ErrorReason]
    ERROR_REASON_SEGMENT_OUT_OF_ORDER: _ClassVar[ErrorReason]
    ERROR_REASON_SEGMENT_MISALIGNED: _ClassVar[ErrorReason]
    ERROR_REASON_PAYLOAD_TOO_LARGE: _ClassVar[ErrorReason]
    ERROR_REASON_CREDIT_EXCEEDED: _ClassVar[ErrorReason]
    ERROR_REASON_UNSUPPORTED_DTYPE: _ClassVar[ErrorReason]
    ERROR_REASON_UNSUPPORTED_CODEC: _ClassVar[ErrorReason]
    ERROR_REASON_INVALID_POLICY: _ClassVar[ErrorReason]
    ERROR_REASON_INVALID_FILTER: _ClassVar[ErrorReason]
    ERROR_REASON_GENERATION_MISMATCH: _ClassVar[ErrorReason]
    ERROR_REASON_SESSION_TAKEN_OVER: _ClassVar[ErrorReason]
    ERROR_REASON_SESSION_EXPIRED: _ClassVar[ErrorReason]
    ERROR_REASON_STORAGE_FULL: _ClassVar[ErrorReason]
    ERROR_REASON_DATA_CORRUPT: _ClassVar[ErrorReason]
    ERROR_REASON_DRAINING: _ClassVar[ErrorReason]
    ERROR_REASON_INVALID_REQUEST: _ClassVar[ErrorReason]
    ERROR_REASON_INVALID_NAME: _ClassVar[ErrorReason]
    ERROR_REASON_INVALID_SHAPE: _ClassVar[ErrorReason]
    ERROR_REASON_INVALID_SLICE: _ClassVar[ErrorReason]
    ERROR_REASON_INVALID_METADATA: _ClassVar[ErrorReason]
    ERROR_REASON_LIMIT_EXCEEDED: _ClassVar[ErrorReason]
    ERROR_REASON_INVALID_PAGE_TOKEN: _ClassVar[ErrorReason]
    ERROR_REASON_TOO_MANY_STREAMS: _ClassVar[ErrorReason]
    ERROR_REASON_STORE_UNAVAILABLE: _ClassVar[ErrorReason]
    ERROR_REASON_NOT_IMPLEMENTED: _ClassVar[ErrorReason]
    ERROR_REASON_INTERNAL: _ClassVar[ErrorReason]
    ERROR_REASON_INSERT_ABANDONED: _ClassVar[ErrorReason]
    ERROR_REASON_STORE_BUSY: _ClassVar[ErrorReason]
    ERROR_REASON_STREAM_STALLED: _ClassVar[ErrorReason]
    ERROR_REASON_STORED_DIFFERENTLY: _ClassVar[ErrorReason]
    ERROR_REASON_SNAPSHOT_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_STATE_NOT_KEPT: _ClassVar[ErrorReason]
    ERROR_REASON_NEWER_TENSORS: _ClassVar[ErrorReason]
    ERROR_REASON_INVALID_BASE: _ClassVar[ErrorReason]
    ERROR_REASON_HAS_SNAPSHOTS: _ClassVar[ErrorReason]
    ERROR_REASON_UNAUTHENTICATED: _ClassVar[ErrorReason]
    ERROR_REASON_PERMISSION_DENIED: _ClassVar[ErrorReason]
    ERROR_REASON_QUOTA_EXCEEDED: _ClassVar[ErrorReason]
    ERROR_REASON_RATE_LIMITED: _ClassVar[ErrorReason]
    ERROR_REASON_READ_ONLY: _ClassVar[ErrorReason]
    ERROR_REASON_TOKEN_NOT_FOUND: _ClassVar[ErrorReason]
DATA_TYPE_UNSPECIFIED: DataType
DATA_TYPE_BOOL: DataType
DATA_TYPE_UINT8: DataType
DATA_TYPE_INT8: DataType
DATA_TYPE_UINT16: DataType
DATA_TYPE_INT16: DataType
DATA_TYPE_UINT32: DataType
DATA_TYPE_INT32: DataType
DATA_TYPE_UINT64: DataType
DATA_TYPE_INT64: DataType
DATA_TYPE_FLOAT16: DataType
DATA_TYPE_BFLOAT16: DataType
DATA_TYPE_FLOAT32: DataType
DATA_TYPE_FLOAT64: DataType
DATA_TYPE_COMPLEX64: DataType
DATA_TYPE_COMPLEX128: DataType
DATA_TYPE_FLOAT8_E4M3FN: DataType
DATA_TYPE_FLOAT8_E5M2: DataType
METADATA_TYPE_UNSPECIFIED: MetadataType
METADATA_TYPE_BOOLEAN: MetadataType
METADATA_TYPE_INTEGER: MetadataType
METADATA_TYPE_NUMBER: MetadataType
METADATA_TYPE_TEXT: MetadataType
METADATA_TYPE_LIST: MetadataType
METADATA_TYPE_MAP: MetadataType
INSERT_OUTCOME_UNSPECIFIED: InsertOutcome
INSERT_OUTCOME_INSERTED: InsertOutcome
INSERT_OUTCOME_ALREADY_STORED: InsertOutcome
INSERT_OUTCOME_REPLACED: InsertOutcome
INSERT_OUTCOME_CHANGED: InsertOutcome
PRECISION_UNSPECIFIED: Precision
PRECISION_BF16: Precision
PROPERTY_UNSPECIFIED: Property
PROPERTY_ID: Property
PROPERTY_DTYPE: Property
PROPERTY_SHAPE: Property
PROPERTY_RANK: Property
PROPERTY_NBYTES: Property
PROPERTY_STORED_BYTES: Property
PROPERTY_CREATED: Property
PROPERTY_MIN: Property
PROPERTY_MAX: Property
PROPERTY_MEAN: Property
PROPERTY_STANDARD_DEVIATION: Property
PROPERTY_L2_NORM: Property
PROPERTY_ZERO_COUNT: Property
PROPERTY_NAN_COUNT: Property
PROPERTY_INFINITY_COUNT: Property
ERROR_REASON_UNSPECIFIED: ErrorReason
ERROR_REASON_DATASET_NOT_FOUND: ErrorReason
ERROR_REASON_TENSOR_NOT_FOUND: ErrorReason
ERROR_REASON_ALREADY_EXISTS: ErrorReason
ERROR_REASON_SCHEMA_MISMATCH: ErrorReason
ERROR_REASON_CHECKSUM_MISMATCH: ErrorReason
ERROR_REASON_SIZE_MISMATCH: ErrorReason
ERROR_REASON_SEGMENT_OUT_OF_ORDER: ErrorReason
ERROR_REASON_SEGMENT_MISALIGNED: ErrorReason
ERROR_REASON_PAYLOAD_TOO_LARGE: ErrorReason
ERROR_REASON_CREDIT_EXCEEDED: ErrorReason
ERROR_REASON_UNSUPPORTED_DTYPE: ErrorReason
ERROR_REASON_UNSUPPORTED_CODEC: ErrorReason
ERROR_REASON_INVALID_POLICY: ErrorReason
ERROR_REASON_INVALID_FILTER: ErrorReason
ERROR_REASON_GENERATION_MISMATCH: ErrorReason
ERROR_REASON_SESSION_TAKEN_OVER: ErrorReason
ERROR_REASON_SESSION_EXPIRED: ErrorReason
ERROR_REASON_STORAGE_FULL: ErrorReason
ERROR_REASON_DATA_CORRUPT: ErrorReason
ERROR_REASON_DRAINING: ErrorReason
ERROR_REASON_INVALID_REQUEST: ErrorReason
ERROR_REASON_INVALID_NAME: ErrorReason
ERROR_REASON_INVALID_SHAPE: ErrorReason
ERROR_REASON_INVALID_SLICE: ErrorReason
ERROR_REASON_INVALID_METADATA: ErrorReason
ERROR_REASON_LIMIT_EXCEEDED: ErrorReason
ERROR_REASON_INVALID_PAGE_TOKEN: ErrorReason
ERROR_REASON_TOO_MANY_STREAMS: ErrorReason
ERROR_REASON_STORE_UNAVAILABLE: ErrorReason
ERROR_REASON_NOT_IMPLEMENTED: ErrorReason
ERROR_REASON_INTERNAL: ErrorReason
ERROR_REASON_INSERT_ABANDONED: ErrorReason
ERROR_REASON_STORE_BUSY: ErrorReason
ERROR_REASON_STREAM_STALLED: ErrorReason
ERROR_REASON_STORED_DIFFERENTLY: ErrorReason
ERROR_REASON_SNAPSHOT_NOT_FOUND: ErrorReason
ERROR_REASON_STATE_NOT_KEPT: ErrorReason
ERROR_REASON_NEWER_TENSORS: ErrorReason
ERROR_REASON_INVALID_BASE: ErrorReason
ERROR_REASON_HAS_SNAPSHOTS: ErrorReason
ERROR_REASON_UNAUTHENTICATED: ErrorReason
ERROR_REASON_PERMISSION_DENIED: ErrorReason
ERROR_REASON_QUOTA_EXCEEDED: ErrorReason
ERROR_REASON_RATE_LIMITED: ErrorReason
ERROR_REASON_READ_ONLY: ErrorReason
ERROR_REASON_TOKEN_NOT_FOUND: ErrorReason

class TensorSpec(_message.Message):
    __slots__ = ("dtype", "shape", "element_bits")
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    ELEMENT_BITS_FIELD_NUMBER: _ClassVar[int]
    dtype: DataType
    shape: _containers.RepeatedScalarFieldContainer[int]
    element_bits: int
    def __init__(self, dtype: _Optional[_Union[DataType, str]] = ..., shape: _Optional[_Iterable[int]] = ..., element_bits: _Optional[int] = ...) -> None: ...

class Value(_message.Message):
    __slots__ = ("null", "boolean", "integer", "number", "text", "list", "map")
    NULL_FIELD_NUMBER: _ClassVar[int]
    BOOLEAN_FIELD_NUMBER: _ClassVar[int]
    INTEGER_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    LIST_FIELD_NUMBER: _ClassVar[int]
    MAP_FIELD_NUMBER: _ClassVar[int]
    null: bool
    boolean: bool
    integer: int
    number: float
    text: str
    list: ListValue
    map: MapValue
    def __init__(self, null: bool = ..., boolean: bool = ..., integer: _Optional[int] = ..., number: _Optional[float] = ..., text: _Optional[str] = ..., list: _Optional[_Union[ListValue, _Mapping]] = ..., map: _Optional[_Union[MapValue, _Mapping]] = ...) -> None: ...

class ListValue(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedCompositeFieldContainer[Value]
    def __init__(self, values: _Optional[_Iterable[_Union[Value, _Mapping]]] = ...) -> None: ...

class MapValue(_message.Message):
    __slots__ = ("entries",)
    class EntriesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Value
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Value, _Mapping]] = ...) -> None: ...
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.MessageMap[str, Value]
    def __init__(self, entries: _Optional[_Mapping[str, Value]] = ...) -> None: ...

class Codec(_message.Message):
    __slots__ = ("id", "configuration")
    class ConfigurationEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Value
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Value, _Mapping]] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    CONFIGURATION_FIELD_NUMBER: _ClassVar[int]
    id: str
    configuration: _containers.MessageMap[str, Value]
    def __init__(self, id: _Optional[str] = ..., configuration: _Optional[_Mapping[str, Value]] = ...) -> None: ...

class Encoding(_message.Message):
    __slots__ = ("codecs",)
    CODECS_FIELD_NUMBER: _ClassVar[int]
    codecs: _containers.RepeatedCompositeFieldContainer[Codec]
    def __init__(self, codecs: _Optional[_Iterable[_Union[Codec, _Mapping]]] = ...) -> None: ...

class StoragePolicy(_message.Message):
    __slots__ = ("preset", "encoding", "max_relative_error", "max_absolute_error", "chunk_bytes")
    PRESET_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    MAX_RELATIVE_ERROR_FIELD_NUMBER: _ClassVar[int]
    MAX_ABSOLUTE_ERROR_FIELD_NUMBER: _ClassVar[int]
    CHUNK_BYTES_FIELD_NUMBER: _ClassVar[int]
    preset: str
    encoding: Encoding
    max_relative_error: float
    max_absolute_error: float
    chunk_bytes: int
    def __init__(self, preset: _Optional[str] = ..., encoding: _Optional[_Union[Encoding, _Mapping]] = ..., max_relative_error: _Optional[float] = ..., max_absolute_error: _Optional[float] = ..., chunk_bytes: _Optional[int] = ...) -> None: ...

class Checksum(_message.Message):
    __slots__ = ("algorithm", "value")
    ALGORITHM_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    algorithm: str
    value: bytes
    def __init__(self, algorithm: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...

class StorageReport(_message.Message):
    __slots__ = ("canonical_bytes", "quantized_bytes", "stored_bytes", "relative_error", "max_absolute_error", "lossy", "encodings", "fallback_reason")
    CANONICAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    QUANTIZED_BYTES_FIELD_NUMBER: _ClassVar[int]
    STORED_BYTES_FIELD_NUMBER: _ClassVar[int]
    RELATIVE_ERROR_FIELD_NUMBER: _ClassVar[int]
    MAX_ABSOLUTE_ERROR_FIELD_NUMBER: _ClassVar[int]
    LOSSY_FIELD_NUMBER: _ClassVar[int]
    ENCODINGS_FIELD_NUMBER: _ClassVar[int]
    FALLBACK_REASON_FIELD_NUMBER: _ClassVar[int]
    canonical_bytes: int
    quantized_bytes: int
    stored_bytes: int
    relative_error: float
    max_absolute_error: float
    lossy: bool
    encodings: _containers.RepeatedCompositeFieldContainer[EncodingShare]
    fallback_reason: str
    def __init__(self, canonical_bytes: _Optional[int] = ..., quantized_bytes: _Optional[int] = ..., stored_bytes: _Optional[int] = ..., relative_error: _Optional[float] = ..., max_absolute_error: _Optional[float] = ..., lossy: bool = ..., encodings: _Optional[_Iterable[_Union[EncodingShare, _Mapping]]] = ..., fallback_reason: _Optional[str] = ...) -> None: ...

class EncodingShare(_message.Message):
    __slots__ = ("encoding", "chunks", "canonical_bytes", "stored_bytes")
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    CANONICAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    STORED_BYTES_FIELD_NUMBER: _ClassVar[int]
    encoding: Encoding
    chunks: int
    canonical_bytes: int
    stored_bytes: int
    def __init__(self, encoding: _Optional[_Union[Encoding, _Mapping]] = ..., chunks: _Optional[int] = ..., canonical_bytes: _Optional[int] = ..., stored_bytes: _Optional[int] = ...) -> None: ...

class ValueSummary(_message.Message):
    __slots__ = ("min", "max", "mean", "standard_deviation", "l2_norm", "zero_count", "nan_count", "infinity_count")
    MIN_FIELD_NUMBER: _ClassVar[int]
    MAX_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    STANDARD_DEVIATION_FIELD_NUMBER: _ClassVar[int]
    L2_NORM_FIELD_NUMBER: _ClassVar[int]
    ZERO_COUNT_FIELD_NUMBER: _ClassVar[int]
    NAN_COUNT_FIELD_NUMBER: _ClassVar[int]
    INFINITY_COUNT_FIELD_NUMBER: _ClassVar[int]
    min: float
    max: float
    mean: float
    standard_deviation: float
    l2_norm: float
    zero_count: int
    nan_count: int
    infinity_count: int
    def __init__(self, min: _Optional[float] = ..., max: _Optional[float] = ..., mean: _Optional[float] = ..., standard_deviation: _Optional[float] = ..., l2_norm: _Optional[float] = ..., zero_count: _Optional[int] = ..., nan_count: _Optional[int] = ..., infinity_count: _Optional[int] = ...) -> None: ...

class Tensor(_message.Message):
    __slots__ = ("dataset", "id", "spec", "metadata", "policy", "generation", "source_checksum", "value_checksum", "storage", "values", "create_time", "if_generation_match", "ordinal", "replace", "edit", "chunk_bytes", "base")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Value
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Value, _Mapping]] = ...) -> None: ...
    DATASET_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    SOURCE_CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    VALUE_CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    STORAGE_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    IF_GENERATION_MATCH_FIELD_NUMBER: _ClassVar[int]
    ORDINAL_FIELD_NUMBER: _ClassVar[int]
    REPLACE_FIELD_NUMBER: _ClassVar[int]
    EDIT_FIELD_NUMBER: _ClassVar[int]
    CHUNK_BYTES_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    id: str
    spec: TensorSpec
    metadata: _containers.MessageMap[str, Value]
    policy: StoragePolicy
    generation: int
    source_checksum: Checksum
    value_checksum: Checksum
    storage: StorageReport
    values: ValueSummary
    create_time: _timestamp_pb2.Timestamp
    if_generation_match: int
    ordinal: int
    replace: bool
    edit: Edit
    chunk_bytes: int
    base: TensorReference
    def __init__(self, dataset: _Optional[str] = ..., id: _Optional[str] = ..., spec: _Optional[_Union[TensorSpec, _Mapping]] = ..., metadata: _Optional[_Mapping[str, Value]] = ..., policy: _Optional[_Union[StoragePolicy, _Mapping]] = ..., generation: _Optional[int] = ..., source_checksum: _Optional[_Union[Checksum, _Mapping]] = ..., value_checksum: _Optional[_Union[Checksum, _Mapping]] = ..., storage: _Optional[_Union[StorageReport, _Mapping]] = ..., values: _Optional[_Union[ValueSummary, _Mapping]] = ..., create_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., if_generation_match: _Optional[int] = ..., ordinal: _Optional[int] = ..., replace: bool = ..., edit: _Optional[_Union[Edit, _Mapping]] = ..., chunk_bytes: _Optional[int] = ..., base: _Optional[_Union[TensorReference, _Mapping]] = ...) -> None: ...

class TensorReference(_message.Message):
    __slots__ = ("dataset", "id", "at")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    id: str
    at: At
    def __init__(self, dataset: _Optional[str] = ..., id: _Optional[str] = ..., at: _Optional[_Union[At, _Mapping]] = ...) -> None: ...

class Edit(_message.Message):
    __slots__ = ("append", "write")
    APPEND_FIELD_NUMBER: _ClassVar[int]
    WRITE_FIELD_NUMBER: _ClassVar[int]
    append: AppendEdit
    write: WriteEdit
    def __init__(self, append: _Optional[_Union[AppendEdit, _Mapping]] = ..., write: _Optional[_Union[WriteEdit, _Mapping]] = ...) -> None: ...

class AppendEdit(_message.Message):
    __slots__ = ("axis",)
    AXIS_FIELD_NUMBER: _ClassVar[int]
    axis: int
    def __init__(self, axis: _Optional[int] = ...) -> None: ...

class WriteEdit(_message.Message):
    __slots__ = ("slices",)
    SLICES_FIELD_NUMBER: _ClassVar[int]
    slices: SliceSet
    def __init__(self, slices: _Optional[_Union[SliceSet, _Mapping]] = ...) -> None: ...

class DatasetSchema(_message.Message):
    __slots__ = ("dtype", "shape", "metadata")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: MetadataType
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[MetadataType, str]] = ...) -> None: ...
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    dtype: DataType
    shape: ShapePattern
    metadata: _containers.ScalarMap[str, MetadataType]
    def __init__(self, dtype: _Optional[_Union[DataType, str]] = ..., shape: _Optional[_Union[ShapePattern, _Mapping]] = ..., metadata: _Optional[_Mapping[str, MetadataType]] = ...) -> None: ...

class ShapePattern(_message.Message):
    __slots__ = ("sizes",)
    SIZES_FIELD_NUMBER: _ClassVar[int]
    sizes: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, sizes: _Optional[_Iterable[int]] = ...) -> None: ...

class Dataset(_message.Message):
    __slots__ = ("name", "policy", "schema", "create_time", "retention")
    NAME_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    RETENTION_FIELD_NUMBER: _ClassVar[int]
    name: str
    policy: StoragePolicy
    schema: DatasetSchema
    create_time: _timestamp_pb2.Timestamp
    retention: _duration_pb2.Duration
    def __init__(self, name: _Optional[str] = ..., policy: _Optional[_Union[StoragePolicy, _Mapping]] = ..., schema: _Optional[_Union[DatasetSchema, _Mapping]] = ..., create_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., retention: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class CreateDatasetRequest(_message.Message):
    __slots__ = ("name", "policy", "schema", "retention")
    NAME_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_FIELD_NUMBER: _ClassVar[int]
    RETENTION_FIELD_NUMBER: _ClassVar[int]
    name: str
    policy: StoragePolicy
    schema: DatasetSchema
    retention: _duration_pb2.Duration
    def __init__(self, name: _Optional[str] = ..., policy: _Optional[_Union[StoragePolicy, _Mapping]] = ..., schema: _Optional[_Union[DatasetSchema, _Mapping]] = ..., retention: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class CreateDatasetResponse(_message.Message):
    __slots__ = ("dataset",)
    DATASET_FIELD_NUMBER: _ClassVar[int]
    dataset: Dataset
    def __init__(self, dataset: _Optional[_Union[Dataset, _Mapping]] = ...) -> None: ...

class GetDatasetRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetDatasetResponse(_message.Message):
    __slots__ = ("dataset",)
    DATASET_FIELD_NUMBER: _ClassVar[int]
    dataset: Dataset
    def __init__(self, dataset: _Optional[_Union[Dataset, _Mapping]] = ...) -> None: ...

class ListDatasetsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListDatasetsResponse(_message.Message):
    __slots__ = ("datasets", "next_page_token", "damages")
    DATASETS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    DAMAGES_FIELD_NUMBER: _ClassVar[int]
    datasets: _containers.RepeatedCompositeFieldContainer[Dataset]
    next_page_token: str
    damages: _containers.RepeatedCompositeFieldContainer[Damage]
    def __init__(self, datasets: _Optional[_Iterable[_Union[Dataset, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., damages: _Optional[_Iterable[_Union[Damage, _Mapping]]] = ...) -> None: ...

class UpdateDatasetRequest(_message.Message):
    __slots__ = ("name", "policy", "schema", "retention")
    NAME_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_FIELD_NUMBER: _ClassVar[int]
    RETENTION_FIELD_NUMBER: _ClassVar[int]
    name: str
    policy: StoragePolicy
    schema: DatasetSchema
    retention: _duration_pb2.Duration
    def __init__(self, name: _Optional[str] = ..., policy: _Optional[_Union[StoragePolicy, _Mapping]] = ..., schema: _Optional[_Union[DatasetSchema, _Mapping]] = ..., retention: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class UpdateDatasetResponse(_message.Message):
    __slots__ = ("dataset",)
    DATASET_FIELD_NUMBER: _ClassVar[int]
    dataset: Dataset
    def __init__(self, dataset: _Optional[_Union[Dataset, _Mapping]] = ...) -> None: ...

class DeleteDatasetRequest(_message.Message):
    __slots__ = ("name", "drop_snapshots")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DROP_SNAPSHOTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    drop_snapshots: bool
    def __init__(self, name: _Optional[str] = ..., drop_snapshots: bool = ...) -> None: ...

class DeleteDatasetResponse(_message.Message):
    __slots__ = ("deleted_tensors",)
    DELETED_TENSORS_FIELD_NUMBER: _ClassVar[int]
    deleted_tensors: int
    def __init__(self, deleted_tensors: _Optional[int] = ...) -> None: ...

class GetDatasetStatsRequest(_message.Message):
    __slots__ = ("name", "at")
    NAME_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    name: str
    at: At
    def __init__(self, name: _Optional[str] = ..., at: _Optional[_Union[At, _Mapping]] = ...) -> None: ...

class GetDatasetStatsResponse(_message.Message):
    __slots__ = ("tensors", "lossy_tensors", "canonical_bytes", "quantized_bytes", "stored_bytes", "worst_relative_error", "worst_max_absolute_error", "data_types", "encodings", "damages", "damaged_tensors", "unique_bytes", "unique_stored_bytes")
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    LOSSY_TENSORS_FIELD_NUMBER: _ClassVar[int]
    CANONICAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    QUANTIZED_BYTES_FIELD_NUMBER: _ClassVar[int]
    STORED_BYTES_FIELD_NUMBER: _ClassVar[int]
    WORST_RELATIVE_ERROR_FIELD_NUMBER: _ClassVar[int]
    WORST_MAX_ABSOLUTE_ERROR_FIELD_NUMBER: _ClassVar[int]
    DATA_TYPES_FIELD_NUMBER: _ClassVar[int]
    ENCODINGS_FIELD_NUMBER: _ClassVar[int]
    DAMAGES_FIELD_NUMBER: _ClassVar[int]
    DAMAGED_TENSORS_FIELD_NUMBER: _ClassVar[int]
    UNIQUE_BYTES_FIELD_NUMBER: _ClassVar[int]
    UNIQUE_STORED_BYTES_FIELD_NUMBER: _ClassVar[int]
    tensors: int
    lossy_tensors: int
    canonical_bytes: int
    quantized_bytes: int
    stored_bytes: int
    worst_relative_error: float
    worst_max_absolute_error: float
    data_types: _containers.RepeatedCompositeFieldContainer[DataTypeShare]
    encodings: _containers.RepeatedCompositeFieldContainer[EncodingShare]
    damages: _containers.RepeatedCompositeFieldContainer[Damage]
    damaged_tensors: int
    unique_bytes: int
    unique_stored_bytes: int
    def __init__(self, tensors: _Optional[int] = ..., lossy_tensors: _Optional[int] = ..., canonical_bytes: _Optional[int] = ..., quantized_bytes: _Optional[int] = ..., stored_bytes: _Optional[int] = ..., worst_relative_error: _Optional[float] = ..., worst_max_absolute_error: _Optional[float] = ..., data_types: _Optional[_Iterable[_Union[DataTypeShare, _Mapping]]] = ..., encodings: _Optional[_Iterable[_Union[EncodingShare, _Mapping]]] = ..., damages: _Optional[_Iterable[_Union[Damage, _Mapping]]] = ..., damaged_tensors: _Optional[int] = ..., unique_bytes: _Optional[int] = ..., unique_stored_bytes: _Optional[int] = ...) -> None: ...

class DataTypeShare(_message.Message):
    __slots__ = ("dtype", "tensors", "canonical_bytes", "stored_bytes")
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    CANONICAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    STORED_BYTES_FIELD_NUMBER: _ClassVar[int]
    dtype: DataType
    tensors: int
    canonical_bytes: int
    stored_bytes: int
    def __init__(self, dtype: _Optional[_Union[DataType, str]] = ..., tensors: _Optional[int] = ..., canonical_bytes: _Optional[int] = ..., stored_bytes: _Optional[int] = ...) -> None: ...

class CopyDatasetRequest(_message.Message):
    __slots__ = ("name", "new_name", "at", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NEW_NAME_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    new_name: str
    at: At
    request_id: str
    def __init__(self, name: _Optional[str] = ..., new_name: _Optional[str] = ..., at: _Optional[_Union[At, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class CopyDatasetResponse(_message.Message):
    __slots__ = ("dataset", "tensors")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    dataset: Dataset
    tensors: int
    def __init__(self, dataset: _Optional[_Union[Dataset, _Mapping]] = ..., tensors: _Optional[int] = ...) -> None: ...

class RenameDatasetRequest(_message.Message):
    __slots__ = ("name", "new_name", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NEW_NAME_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    new_name: str
    request_id: str
    def __init__(self, name: _Optional[str] = ..., new_name: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class RenameDatasetResponse(_message.Message):
    __slots__ = ("dataset",)
    DATASET_FIELD_NUMBER: _ClassVar[int]
    dataset: Dataset
    def __init__(self, dataset: _Optional[_Union[Dataset, _Mapping]] = ...) -> None: ...

class At(_message.Message):
    __slots__ = ("snapshot", "generation", "time")
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    snapshot: str
    generation: int
    time: _timestamp_pb2.Timestamp
    def __init__(self, snapshot: _Optional[str] = ..., generation: _Optional[int] = ..., time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Snapshot(_message.Message):
    __slots__ = ("dataset", "name", "generation", "create_time")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    name: str
    generation: int
    create_time: _timestamp_pb2.Timestamp
    def __init__(self, dataset: _Optional[str] = ..., name: _Optional[str] = ..., generation: _Optional[int] = ..., create_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class CreateSnapshotRequest(_message.Message):
    __slots__ = ("dataset", "name")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    name: str
    def __init__(self, dataset: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class CreateSnapshotResponse(_message.Message):
    __slots__ = ("snapshot",)
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    snapshot: Snapshot
    def __init__(self, snapshot: _Optional[_Union[Snapshot, _Mapping]] = ...) -> None: ...

class ListSnapshotsRequest(_message.Message):
    __slots__ = ("dataset", "page_size", "page_token")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    page_size: int
    page_token: str
    def __init__(self, dataset: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListSnapshotsResponse(_message.Message):
    __slots__ = ("snapshots", "next_page_token", "damages")
    SNAPSHOTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    DAMAGES_FIELD_NUMBER: _ClassVar[int]
    snapshots: _containers.RepeatedCompositeFieldContainer[Snapshot]
    next_page_token: str
    damages: _containers.RepeatedCompositeFieldContainer[Damage]
    def __init__(self, snapshots: _Optional[_Iterable[_Union[Snapshot, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., damages: _Optional[_Iterable[_Union[Damage, _Mapping]]] = ...) -> None: ...

class DeleteSnapshotRequest(_message.Message):
    __slots__ = ("dataset", "name")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    name: str
    def __init__(self, dataset: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class DeleteSnapshotResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RestoreDatasetRequest(_message.Message):
    __slots__ = ("dataset", "at", "discard_newer")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    DISCARD_NEWER_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    at: At
    discard_newer: bool
    def __init__(self, dataset: _Optional[str] = ..., at: _Optional[_Union[At, _Mapping]] = ..., discard_newer: bool = ...) -> None: ...

class RestoreDatasetResponse(_message.Message):
    __slots__ = ("generation", "restored", "deleted", "unchanged")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    RESTORED_FIELD_NUMBER: _ClassVar[int]
    DELETED_FIELD_NUMBER: _ClassVar[int]
    UNCHANGED_FIELD_NUMBER: _ClassVar[int]
    generation: int
    restored: int
    deleted: int
    unchanged: int
    def __init__(self, generation: _Optional[int] = ..., restored: _Optional[int] = ..., deleted: _Optional[int] = ..., unchanged: _Optional[int] = ...) -> None: ...

class Segment(_message.Message):
    __slots__ = ("item", "tensor", "offset", "decoded_length", "payload_length", "encoding", "crc32c", "last", "source_checksum", "part", "coarse_error", "has_plan")
    ITEM_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DECODED_LENGTH_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_LENGTH_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    CRC32C_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    SOURCE_CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    COARSE_ERROR_FIELD_NUMBER: _ClassVar[int]
    HAS_PLAN_FIELD_NUMBER: _ClassVar[int]
    item: int
    tensor: Tensor
    offset: int
    decoded_length: int
    payload_length: int
    encoding: int
    crc32c: int
    last: bool
    source_checksum: Checksum
    part: TensorSpec
    coarse_error: float
    has_plan: bool
    def __init__(self, item: _Optional[int] = ..., tensor: _Optional[_Union[Tensor, _Mapping]] = ..., offset: _Optional[int] = ..., decoded_length: _Optional[int] = ..., payload_length: _Optional[int] = ..., encoding: _Optional[int] = ..., crc32c: _Optional[int] = ..., last: bool = ..., source_checksum: _Optional[_Union[Checksum, _Mapping]] = ..., part: _Optional[_Union[TensorSpec, _Mapping]] = ..., coarse_error: _Optional[float] = ..., has_plan: bool = ...) -> None: ...

class ItemStatus(_message.Message):
    __slots__ = ("item", "status", "committed_bytes", "tensor", "outcome")
    ITEM_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_BYTES_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    item: int
    status: _status_pb2.Status
    committed_bytes: int
    tensor: Tensor
    outcome: InsertOutcome
    def __init__(self, item: _Optional[int] = ..., status: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., committed_bytes: _Optional[int] = ..., tensor: _Optional[_Union[Tensor, _Mapping]] = ..., outcome: _Optional[_Union[InsertOutcome, str]] = ...) -> None: ...

class InsertRequest(_message.Message):
    __slots__ = ("open", "segments", "finish", "payload")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    FINISH_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    open: OpenInsert
    segments: _containers.RepeatedCompositeFieldContainer[Segment]
    finish: bool
    payload: bytes
    def __init__(self, open: _Optional[_Union[OpenInsert, _Mapping]] = ..., segments: _Optional[_Iterable[_Union[Segment, _Mapping]]] = ..., finish: bool = ..., payload: _Optional[bytes] = ...) -> None: ...

class OpenInsert(_message.Message):
    __slots__ = ("dataset", "request_id", "encodings", "all_or_nothing", "validate_only")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ENCODINGS_FIELD_NUMBER: _ClassVar[int]
    ALL_OR_NOTHING_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    request_id: str
    encodings: _containers.RepeatedCompositeFieldContainer[Encoding]
    all_or_nothing: bool
    validate_only: bool
    def __init__(self, dataset: _Optional[str] = ..., request_id: _Optional[str] = ..., encodings: _Optional[_Iterable[_Union[Encoding, _Mapping]]] = ..., all_or_nothing: bool = ..., validate_only: bool = ...) -> None: ...

class InsertResponse(_message.Message):
    __slots__ = ("opened", "progress", "results", "draining", "finished")
    OPENED_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    opened: InsertOpened
    progress: InsertProgress
    results: _containers.RepeatedCompositeFieldContainer[ItemStatus]
    draining: ServerDraining
    finished: InsertFinished
    def __init__(self, opened: _Optional[_Union[InsertOpened, _Mapping]] = ..., progress: _Optional[_Union[InsertProgress, _Mapping]] = ..., results: _Optional[_Iterable[_Union[ItemStatus, _Mapping]]] = ..., draining: _Optional[_Union[ServerDraining, _Mapping]] = ..., finished: _Optional[_Union[InsertFinished, _Mapping]] = ...) -> None: ...

class InsertOpened(_message.Message):
    __slots__ = ("max_unacknowledged_bytes", "items", "more")
    MAX_UNACKNOWLEDGED_BYTES_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    max_unacknowledged_bytes: int
    items: _containers.RepeatedCompositeFieldContainer[ItemStatus]
    more: bool
    def __init__(self, max_unacknowledged_bytes: _Optional[int] = ..., items: _Optional[_Iterable[_Union[ItemStatus, _Mapping]]] = ..., more: bool = ...) -> None: ...

class InsertProgress(_message.Message):
    __slots__ = ("acknowledged_payload_bytes", "items")
    ACKNOWLEDGED_PAYLOAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    acknowledged_payload_bytes: int
    items: _containers.RepeatedCompositeFieldContainer[ItemStatus]
    def __init__(self, acknowledged_payload_bytes: _Optional[int] = ..., items: _Optional[_Iterable[_Union[ItemStatus, _Mapping]]] = ...) -> None: ...

class ServerDraining(_message.Message):
    __slots__ = ("grace",)
    GRACE_FIELD_NUMBER: _ClassVar[int]
    grace: _duration_pb2.Duration
    def __init__(self, grace: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class InsertFinished(_message.Message):
    __slots__ = ("succeeded", "failed")
    SUCCEEDED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    succeeded: int
    failed: int
    def __init__(self, succeeded: _Optional[int] = ..., failed: _Optional[int] = ...) -> None: ...

class InsertKnownRequest(_message.Message):
    __slots__ = ("dataset", "tensors")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    tensors: _containers.RepeatedCompositeFieldContainer[Tensor]
    def __init__(self, dataset: _Optional[str] = ..., tensors: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ...) -> None: ...

class InsertKnownResponse(_message.Message):
    __slots__ = ("results", "missing")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[ItemStatus]
    missing: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, results: _Optional[_Iterable[_Union[ItemStatus, _Mapping]]] = ..., missing: _Optional[_Iterable[int]] = ...) -> None: ...

class GetInsertStatusRequest(_message.Message):
    __slots__ = ("request_id", "page_token")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    page_token: str
    def __init__(self, request_id: _Optional[str] = ..., page_token: _Optional[str] = ...) -> None: ...

class GetInsertStatusResponse(_message.Message):
    __slots__ = ("items", "finished", "next_page_token")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[ItemStatus]
    finished: bool
    next_page_token: str
    def __init__(self, items: _Optional[_Iterable[_Union[ItemStatus, _Mapping]]] = ..., finished: bool = ..., next_page_token: _Optional[str] = ...) -> None: ...

class CancelInsertRequest(_message.Message):
    __slots__ = ("request_id",)
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    def __init__(self, request_id: _Optional[str] = ...) -> None: ...

class CancelInsertResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Slice(_message.Message):
    __slots__ = ("start", "stop", "step")
    START_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    start: int
    stop: int
    step: int
    def __init__(self, start: _Optional[int] = ..., stop: _Optional[int] = ..., step: _Optional[int] = ...) -> None: ...

class TensorRead(_message.Message):
    __slots__ = ("id", "generation", "bytes", "slices")
    ID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    SLICES_FIELD_NUMBER: _ClassVar[int]
    id: str
    generation: int
    bytes: ByteRange
    slices: SliceSet
    def __init__(self, id: _Optional[str] = ..., generation: _Optional[int] = ..., bytes: _Optional[_Union[ByteRange, _Mapping]] = ..., slices: _Optional[_Union[SliceSet, _Mapping]] = ...) -> None: ...

class ByteRange(_message.Message):
    __slots__ = ("offset", "length")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    offset: int
    length: int
    def __init__(self, offset: _Optional[int] = ..., length: _Optional[int] = ...) -> None: ...

class SliceSet(_message.Message):
    __slots__ = ("axes", "trailing_axes")
    AXES_FIELD_NUMBER: _ClassVar[int]
    TRAILING_AXES_FIELD_NUMBER: _ClassVar[int]
    axes: _containers.RepeatedCompositeFieldContainer[Slice]
    trailing_axes: _containers.RepeatedCompositeFieldContainer[Slice]
    def __init__(self, axes: _Optional[_Iterable[_Union[Slice, _Mapping]]] = ..., trailing_axes: _Optional[_Iterable[_Union[Slice, _Mapping]]] = ...) -> None: ...

class ReadOptions(_message.Message):
    __slots__ = ("accepted_codecs", "max_payload_bytes", "omit_crc", "headers_only", "as_dtype", "precision", "until_plan")
    ACCEPTED_CODECS_FIELD_NUMBER: _ClassVar[int]
    MAX_PAYLOAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    OMIT_CRC_FIELD_NUMBER: _ClassVar[int]
    HEADERS_ONLY_FIELD_NUMBER: _ClassVar[int]
    AS_DTYPE_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    UNTIL_PLAN_FIELD_NUMBER: _ClassVar[int]
    accepted_codecs: _containers.RepeatedScalarFieldContainer[str]
    max_payload_bytes: int
    omit_crc: bool
    headers_only: bool
    as_dtype: DataType
    precision: Precision
    until_plan: bool
    def __init__(self, accepted_codecs: _Optional[_Iterable[str]] = ..., max_payload_bytes: _Optional[int] = ..., omit_crc: bool = ..., headers_only: bool = ..., as_dtype: _Optional[_Union[DataType, str]] = ..., precision: _Optional[_Union[Precision, str]] = ..., until_plan: bool = ...) -> None: ...

class GetRequest(_message.Message):
    __slots__ = ("dataset", "reads", "options", "fail_fast", "at")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    READS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    FAIL_FAST_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    reads: _containers.RepeatedCompositeFieldContainer[TensorRead]
    options: ReadOptions
    fail_fast: bool
    at: At
    def __init__(self, dataset: _Optional[str] = ..., reads: _Optional[_Iterable[_Union[TensorRead, _Mapping]]] = ..., options: _Optional[_Union[ReadOptions, _Mapping]] = ..., fail_fast: bool = ..., at: _Optional[_Union[At, _Mapping]] = ...) -> None: ...

class GetResponse(_message.Message):
    __slots__ = ("encodings", "segments", "statuses", "at_generation", "payload")
    ENCODINGS_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    AT_GENERATION_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    encodings: _containers.RepeatedCompositeFieldContainer[Encoding]
    segments: _containers.RepeatedCompositeFieldContainer[Segment]
    statuses: _containers.RepeatedCompositeFieldContainer[ItemStatus]
    at_generation: int
    payload: bytes
    def __init__(self, encodings: _Optional[_Iterable[_Union[Encoding, _Mapping]]] = ..., segments: _Optional[_Iterable[_Union[Segment, _Mapping]]] = ..., statuses: _Optional[_Iterable[_Union[ItemStatus, _Mapping]]] = ..., at_generation: _Optional[int] = ..., payload: _Optional[bytes] = ...) -> None: ...

class GetPlanRequest(_message.Message):
    __slots__ = ("dataset", "reads", "accepted_codecs", "at", "first_chunk")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    READS_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_CODECS_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    FIRST_CHUNK_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    reads: _containers.RepeatedCompositeFieldContainer[TensorRead]
    accepted_codecs: _containers.RepeatedScalarFieldContainer[str]
    at: At
    first_chunk: int
    def __init__(self, dataset: _Optional[str] = ..., reads: _Optional[_Iterable[_Union[TensorRead, _Mapping]]] = ..., accepted_codecs: _Optional[_Iterable[str]] = ..., at: _Optional[_Union[At, _Mapping]] = ..., first_chunk: _Optional[int] = ...) -> None: ...

class GetPlanResponse(_message.Message):
    __slots__ = ("plans", "valid_for")
    PLANS_FIELD_NUMBER: _ClassVar[int]
    VALID_FOR_FIELD_NUMBER: _ClassVar[int]
    plans: _containers.RepeatedCompositeFieldContainer[TensorPlan]
    valid_for: _duration_pb2.Duration
    def __init__(self, plans: _Optional[_Iterable[_Union[TensorPlan, _Mapping]]] = ..., valid_for: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class TensorPlan(_message.Message):
    __slots__ = ("tensor", "spans", "next_chunk")
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    SPANS_FIELD_NUMBER: _ClassVar[int]
    NEXT_CHUNK_FIELD_NUMBER: _ClassVar[int]
    tensor: Tensor
    spans: _containers.RepeatedCompositeFieldContainer[ChunkSpan]
    next_chunk: int
    def __init__(self, tensor: _Optional[_Union[Tensor, _Mapping]] = ..., spans: _Optional[_Iterable[_Union[ChunkSpan, _Mapping]]] = ..., next_chunk: _Optional[int] = ...) -> None: ...

class ChunkSpan(_message.Message):
    __slots__ = ("first_chunk", "record_bytes", "record_crc32c", "ranges")
    FIRST_CHUNK_FIELD_NUMBER: _ClassVar[int]
    RECORD_BYTES_FIELD_NUMBER: _ClassVar[int]
    RECORD_CRC32C_FIELD_NUMBER: _ClassVar[int]
    RANGES_FIELD_NUMBER: _ClassVar[int]
    first_chunk: int
    record_bytes: _containers.RepeatedScalarFieldContainer[int]
    record_crc32c: _containers.RepeatedScalarFieldContainer[int]
    ranges: _containers.RepeatedCompositeFieldContainer[StoredRange]
    def __init__(self, first_chunk: _Optional[int] = ..., record_bytes: _Optional[_Iterable[int]] = ..., record_crc32c: _Optional[_Iterable[int]] = ..., ranges: _Optional[_Iterable[_Union[StoredRange, _Mapping]]] = ...) -> None: ...

class StoredRange(_message.Message):
    __slots__ = ("url", "offset", "length")
    URL_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    url: str
    offset: int
    length: int
    def __init__(self, url: _Optional[str] = ..., offset: _Optional[int] = ..., length: _Optional[int] = ...) -> None: ...

class QueryRequest(_message.Message):
    __slots__ = ("dataset", "filter", "filter_text", "order_by", "limit", "sample", "seed", "resume_token", "options", "slices", "at")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    FILTER_TEXT_FIELD_NUMBER: _ClassVar[int]
    ORDER_BY_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    SLICES_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    filter: Filter
    filter_text: str
    order_by: str
    limit: int
    sample: int
    seed: int
    resume_token: str
    options: ReadOptions
    slices: SliceSet
    at: At
    def __init__(self, dataset: _Optional[str] = ..., filter: _Optional[_Union[Filter, _Mapping]] = ..., filter_text: _Optional[str] = ..., order_by: _Optional[str] = ..., limit: _Optional[int] = ..., sample: _Optional[int] = ..., seed: _Optional[int] = ..., resume_token: _Optional[str] = ..., options: _Optional[_Union[ReadOptions, _Mapping]] = ..., slices: _Optional[_Union[SliceSet, _Mapping]] = ..., at: _Optional[_Union[At, _Mapping]] = ...) -> None: ...

class QueryResponse(_message.Message):
    __slots__ = ("encodings", "segments", "statuses", "resume_token", "at_generation", "payload")
    ENCODINGS_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    AT_GENERATION_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    encodings: _containers.RepeatedCompositeFieldContainer[Encoding]
    segments: _containers.RepeatedCompositeFieldContainer[Segment]
    statuses: _containers.RepeatedCompositeFieldContainer[ItemStatus]
    resume_token: str
    at_generation: int
    payload: bytes
    def __init__(self, encodings: _Optional[_Iterable[_Union[Encoding, _Mapping]]] = ..., segments: _Optional[_Iterable[_Union[Segment, _Mapping]]] = ..., statuses: _Optional[_Iterable[_Union[ItemStatus, _Mapping]]] = ..., resume_token: _Optional[str] = ..., at_generation: _Optional[int] = ..., payload: _Optional[bytes] = ...) -> None: ...

class Filter(_message.Message):
    __slots__ = ("all_of", "any_of", "negated", "compare", "one_of", "exists", "prefix")
    ALL_OF_FIELD_NUMBER: _ClassVar[int]
    ANY_OF_FIELD_NUMBER: _ClassVar[int]
    NEGATED_FIELD_NUMBER: _ClassVar[int]
    COMPARE_FIELD_NUMBER: _ClassVar[int]
    ONE_OF_FIELD_NUMBER: _ClassVar[int]
    EXISTS_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    all_of: FilterList
    any_of: FilterList
    negated: Filter
    compare: Compare
    one_of: OneOf
    exists: Exists
    prefix: Prefix
    def __init__(self, all_of: _Optional[_Union[FilterList, _Mapping]] = ..., any_of: _Optional[_Union[FilterList, _Mapping]] = ..., negated: _Optional[_Union[Filter, _Mapping]] = ..., compare: _Optional[_Union[Compare, _Mapping]] = ..., one_of: _Optional[_Union[OneOf, _Mapping]] = ..., exists: _Optional[_Union[Exists, _Mapping]] = ..., prefix: _Optional[_Union[Prefix, _Mapping]] = ...) -> None: ...

class FilterList(_message.Message):
    __slots__ = ("filters",)
    FILTERS_FIELD_NUMBER: _ClassVar[int]
    filters: _containers.RepeatedCompositeFieldContainer[Filter]
    def __init__(self, filters: _Optional[_Iterable[_Union[Filter, _Mapping]]] = ...) -> None: ...

class Field(_message.Message):
    __slots__ = ("key", "property", "dimension")
    KEY_FIELD_NUMBER: _ClassVar[int]
    PROPERTY_FIELD_NUMBER: _ClassVar[int]
    DIMENSION_FIELD_NUMBER: _ClassVar[int]
    key: str
    property: Property
    dimension: int
    def __init__(self, key: _Optional[str] = ..., property: _Optional[_Union[Property, str]] = ..., dimension: _Optional[int] = ...) -> None: ...

class Compare(_message.Message):
    __slots__ = ("field", "operator", "value")
    class Operator(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        OPERATOR_UNSPECIFIED: _ClassVar[Compare.Operator]
        OPERATOR_EQUAL: _ClassVar[Compare.Operator]
        OPERATOR_NOT_EQUAL: _ClassVar[Compare.Operator]
        OPERATOR_LESS: _ClassVar[Compare.Operator]
        OPERATOR_LESS_OR_EQUAL: _ClassVar[Compare.Operator]
        OPERATOR_GREATER: _ClassVar[Compare.Operator]
        OPERATOR_GREATER_OR_EQUAL: _ClassVar[Compare.Operator]
    OPERATOR_UNSPECIFIED: Compare.Operator
    OPERATOR_EQUAL: Compare.Operator
    OPERATOR_NOT_EQUAL: Compare.Operator
    OPERATOR_LESS: Compare.Operator
    OPERATOR_LESS_OR_EQUAL: Compare.Operator
    OPERATOR_GREATER: Compare.Operator
    OPERATOR_GREATER_OR_EQUAL: Compare.Operator
    FIELD_FIELD_NUMBER: _ClassVar[int]
    OPERATOR_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    field: Field
    operator: Compare.Operator
    value: Value
    def __init__(self, field: _Optional[_Union[Field, _Mapping]] = ..., operator: _Optional[_Union[Compare.Operator, str]] = ..., value: _Optional[_Union[Value, _Mapping]] = ...) -> None: ...

class OneOf(_message.Message):
    __slots__ = ("field", "values")
    FIELD_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    field: Field
    values: _containers.RepeatedCompositeFieldContainer[Value]
    def __init__(self, field: _Optional[_Union[Field, _Mapping]] = ..., values: _Optional[_Iterable[_Union[Value, _Mapping]]] = ...) -> None: ...

class Exists(_message.Message):
    __slots__ = ("field",)
    FIELD_FIELD_NUMBER: _ClassVar[int]
    field: Field
    def __init__(self, field: _Optional[_Union[Field, _Mapping]] = ...) -> None: ...

class Prefix(_message.Message):
    __slots__ = ("field", "text")
    FIELD_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    field: Field
    text: str
    def __init__(self, field: _Optional[_Union[Field, _Mapping]] = ..., text: _Optional[str] = ...) -> None: ...

class ListTensorsRequest(_message.Message):
    __slots__ = ("dataset", "filter", "filter_text", "order_by", "page_size", "page_token", "at")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    FILTER_TEXT_FIELD_NUMBER: _ClassVar[int]
    ORDER_BY_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    filter: Filter
    filter_text: str
    order_by: str
    page_size: int
    page_token: str
    at: At
    def __init__(self, dataset: _Optional[str] = ..., filter: _Optional[_Union[Filter, _Mapping]] = ..., filter_text: _Optional[str] = ..., order_by: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., at: _Optional[_Union[At, _Mapping]] = ...) -> None: ...

class ListTensorsResponse(_message.Message):
    __slots__ = ("tensors", "next_page_token", "damages")
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    DAMAGES_FIELD_NUMBER: _ClassVar[int]
    tensors: _containers.RepeatedCompositeFieldContainer[Tensor]
    next_page_token: str
    damages: _containers.RepeatedCompositeFieldContainer[Damage]
    def __init__(self, tensors: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., damages: _Optional[_Iterable[_Union[Damage, _Mapping]]] = ...) -> None: ...

class UpdateTensorRequest(_message.Message):
    __slots__ = ("dataset", "id", "metadata")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Value
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Value, _Mapping]] = ...) -> None: ...
    DATASET_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    id: str
    metadata: _containers.MessageMap[str, Value]
    def __init__(self, dataset: _Optional[str] = ..., id: _Optional[str] = ..., metadata: _Optional[_Mapping[str, Value]] = ...) -> None: ...

class UpdateTensorResponse(_message.Message):
    __slots__ = ("tensor",)
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    tensor: Tensor
    def __init__(self, tensor: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...

class DeleteTensorsRequest(_message.Message):
    __slots__ = ("dataset", "ids")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, dataset: _Optional[str] = ..., ids: _Optional[_Iterable[str]] = ...) -> None: ...

class DeleteTensorsResponse(_message.Message):
    __slots__ = ("deleted", "missing_ids")
    DELETED_FIELD_NUMBER: _ClassVar[int]
    MISSING_IDS_FIELD_NUMBER: _ClassVar[int]
    deleted: int
    missing_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, deleted: _Optional[int] = ..., missing_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class CopyTensorsRequest(_message.Message):
    __slots__ = ("source_dataset", "at", "dataset", "tensors", "replace", "move", "request_id")
    SOURCE_DATASET_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    REPLACE_FIELD_NUMBER: _ClassVar[int]
    MOVE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    source_dataset: str
    at: At
    dataset: str
    tensors: _containers.RepeatedCompositeFieldContainer[CopiedTensor]
    replace: bool
    move: bool
    request_id: str
    def __init__(self, source_dataset: _Optional[str] = ..., at: _Optional[_Union[At, _Mapping]] = ..., dataset: _Optional[str] = ..., tensors: _Optional[_Iterable[_Union[CopiedTensor, _Mapping]]] = ..., replace: bool = ..., move: bool = ..., request_id: _Optional[str] = ...) -> None: ...

class CopiedTensor(_message.Message):
    __slots__ = ("id", "new_id")
    ID_FIELD_NUMBER: _ClassVar[int]
    NEW_ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    new_id: str
    def __init__(self, id: _Optional[str] = ..., new_id: _Optional[str] = ...) -> None: ...

class CopyTensorsResponse(_message.Message):
    __slots__ = ("tensors",)
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    tensors: _containers.RepeatedCompositeFieldContainer[Tensor]
    def __init__(self, tensors: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ...) -> None: ...

class ExplainPolicyRequest(_message.Message):
    __slots__ = ("open", "payload")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    open: OpenExplain
    payload: bytes
    def __init__(self, open: _Optional[_Union[OpenExplain, _Mapping]] = ..., payload: _Optional[bytes] = ...) -> None: ...

class OpenExplain(_message.Message):
    __slots__ = ("spec", "candidates", "tensor_bytes", "base")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    TENSOR_BYTES_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    spec: TensorSpec
    candidates: _containers.RepeatedCompositeFieldContainer[StoragePolicy]
    tensor_bytes: _containers.RepeatedScalarFieldContainer[int]
    base: TensorReference
    def __init__(self, spec: _Optional[_Union[TensorSpec, _Mapping]] = ..., candidates: _Optional[_Iterable[_Union[StoragePolicy, _Mapping]]] = ..., tensor_bytes: _Optional[_Iterable[int]] = ..., base: _Optional[_Union[TensorReference, _Mapping]] = ...) -> None: ...

class ExplainPolicyResponse(_message.Message):
    __slots__ = ("explanations",)
    EXPLANATIONS_FIELD_NUMBER: _ClassVar[int]
    explanations: _containers.RepeatedCompositeFieldContainer[PolicyExplanation]
    def __init__(self, explanations: _Optional[_Iterable[_Union[PolicyExplanation, _Mapping]]] = ...) -> None: ...

class PolicyExplanation(_message.Message):
    __slots__ = ("policy", "storage", "encode_bytes_per_second", "decode_bytes_per_second", "worst_relative_error")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    STORAGE_FIELD_NUMBER: _ClassVar[int]
    ENCODE_BYTES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    DECODE_BYTES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    WORST_RELATIVE_ERROR_FIELD_NUMBER: _ClassVar[int]
    policy: StoragePolicy
    storage: StorageReport
    encode_bytes_per_second: float
    decode_bytes_per_second: float
    worst_relative_error: float
    def __init__(self, policy: _Optional[_Union[StoragePolicy, _Mapping]] = ..., storage: _Optional[_Union[StorageReport, _Mapping]] = ..., encode_bytes_per_second: _Optional[float] = ..., decode_bytes_per_second: _Optional[float] = ..., worst_relative_error: _Optional[float] = ...) -> None: ...

class VerifyRequest(_message.Message):
    __slots__ = ("dataset", "ids", "max_bytes_per_second", "resume_token")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    MAX_BYTES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    ids: _containers.RepeatedScalarFieldContainer[str]
    max_bytes_per_second: int
    resume_token: str
    def __init__(self, dataset: _Optional[str] = ..., ids: _Optional[_Iterable[str]] = ..., max_bytes_per_second: _Optional[int] = ..., resume_token: _Optional[str] = ...) -> None: ...

class VerifyResponse(_message.Message):
    __slots__ = ("verified_tensors", "verified_stored_bytes", "damages", "total_tensors", "total_stored_bytes", "resume_token", "summary")
    VERIFIED_TENSORS_FIELD_NUMBER: _ClassVar[int]
    VERIFIED_STORED_BYTES_FIELD_NUMBER: _ClassVar[int]
    DAMAGES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_TENSORS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_STORED_BYTES_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    verified_tensors: int
    verified_stored_bytes: int
    damages: _containers.RepeatedCompositeFieldContainer[Damage]
    total_tensors: int
    total_stored_bytes: int
    resume_token: str
    summary: VerifySummary
    def __init__(self, verified_tensors: _Optional[int] = ..., verified_stored_bytes: _Optional[int] = ..., damages: _Optional[_Iterable[_Union[Damage, _Mapping]]] = ..., total_tensors: _Optional[int] = ..., total_stored_bytes: _Optional[int] = ..., resume_token: _Optional[str] = ..., summary: _Optional[_Union[VerifySummary, _Mapping]] = ...) -> None: ...

class VerifySummary(_message.Message):
    __slots__ = ("damages", "damaged_tensors", "undecoded_tensors", "orphans")
    DAMAGES_FIELD_NUMBER: _ClassVar[int]
    DAMAGED_TENSORS_FIELD_NUMBER: _ClassVar[int]
    UNDECODED_TENSORS_FIELD_NUMBER: _ClassVar[int]
    ORPHANS_FIELD_NUMBER: _ClassVar[int]
    damages: int
    damaged_tensors: int
    undecoded_tensors: int
    orphans: int
    def __init__(self, damages: _Optional[int] = ..., damaged_tensors: _Optional[int] = ..., undecoded_tensors: _Optional[int] = ..., orphans: _Optional[int] = ...) -> None: ...

class Damage(_message.Message):
    __slots__ = ("id", "generation", "status", "dataset", "chunk", "file")
    ID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    id: str
    generation: int
    status: _status_pb2.Status
    dataset: str
    chunk: int
    file: str
    def __init__(self, id: _Optional[str] = ..., generation: _Optional[int] = ..., status: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., dataset: _Optional[str] = ..., chunk: _Optional[int] = ..., file: _Optional[str] = ...) -> None: ...

class GetStoreStatsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStoreStatsResponse(_message.Message):
    __slots__ = ("datasets", "tensors", "canonical_bytes", "stored_bytes", "catalogue_bytes", "garbage_payloads", "garbage_bytes", "garbage_bytes_estimated", "garbage_until", "quarantined_payloads", "quarantined_bytes", "quarantined_until", "uploads", "upload_bytes", "disk_free_bytes", "disk_total_bytes", "unique_bytes", "unique_stored_bytes", "past_tensors", "past_stored_bytes", "snapshots")
    DATASETS_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    CANONICAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    STORED_BYTES_FIELD_NUMBER: _ClassVar[int]
    CATALOGUE_BYTES_FIELD_NUMBER: _ClassVar[int]
    GARBAGE_PAYLOADS_FIELD_NUMBER: _ClassVar[int]
    GARBAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    GARBAGE_BYTES_ESTIMATED_FIELD_NUMBER: _ClassVar[int]
    GARBAGE_UNTIL_FIELD_NUMBER: _ClassVar[int]
    QUARANTINED_PAYLOADS_FIELD_NUMBER: _ClassVar[int]
    QUARANTINED_BYTES_FIELD_NUMBER: _ClassVar[int]
    QUARANTINED_UNTIL_FIELD_NUMBER: _ClassVar[int]
    UPLOADS_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    DISK_FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DISK_TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    UNIQUE_BYTES_FIELD_NUMBER: _ClassVar[int]
    UNIQUE_STORED_BYTES_FIELD_NUMBER: _ClassVar[int]
    PAST_TENSORS_FIELD_NUMBER: _ClassVar[int]
    PAST_STORED_BYTES_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOTS_FIELD_NUMBER: _ClassVar[int]
    datasets: int
    tensors: int
    canonical_bytes: int
    stored_bytes: int
    catalogue_bytes: int
    garbage_payloads: int
    garbage_bytes: int
    garbage_bytes_estimated: bool
    garbage_until: _timestamp_pb2.Timestamp
    quarantined_payloads: int
    quarantined_bytes: int
    quarantined_until: _timestamp_pb2.Timestamp
    uploads: int
    upload_bytes: int
    disk_free_bytes: int
    disk_total_bytes: int
    unique_bytes: int
    unique_stored_bytes: int
    past_tensors: int
    past_stored_bytes: int
    snapshots: int
    def __init__(self, datasets: _Optional[int] = ..., tensors: _Optional[int] = ..., canonical_bytes: _Optional[int] = ..., stored_bytes: _Optional[int] = ..., catalogue_bytes: _Optional[int] = ..., garbage_payloads: _Optional[int] = ..., garbage_bytes: _Optional[int] = ..., garbage_bytes_estimated: bool = ..., garbage_until: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., quarantined_payloads: _Optional[int] = ..., quarantined_bytes: _Optional[int] = ..., quarantined_until: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., uploads: _Optional[int] = ..., upload_bytes: _Optional[int] = ..., disk_free_bytes: _Optional[int] = ..., disk_total_bytes: _Optional[int] = ..., unique_bytes: _Optional[int] = ..., unique_stored_bytes: _Optional[int] = ..., past_tensors: _Optional[int] = ..., past_stored_bytes: _Optional[int] = ..., snapshots: _Optional[int] = ...) -> None: ...

class GetCapabilitiesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetCapabilitiesResponse(_message.Message):
    __slots__ = ("version", "codecs", "presets", "default_preset", "limits", "features")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CODECS_FIELD_NUMBER: _ClassVar[int]
    PRESETS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_PRESET_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    version: str
    codecs: _containers.RepeatedCompositeFieldContainer[CodecInfo]
    presets: _containers.RepeatedCompositeFieldContainer[PresetInfo]
    default_preset: str
    limits: Limits
    features: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, version: _Optional[str] = ..., codecs: _Optional[_Iterable[_Union[CodecInfo, _Mapping]]] = ..., presets: _Optional[_Iterable[_Union[PresetInfo, _Mapping]]] = ..., default_preset: _Optional[str] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., features: _Optional[_Iterable[str]] = ...) -> None: ...

class GetServerStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetServerStatusResponse(_message.Message):
    __slots__ = ("version", "start_time", "principal", "rights", "authenticates", "read_only", "healthy", "store")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    RIGHTS_FIELD_NUMBER: _ClassVar[int]
    AUTHENTICATES_FIELD_NUMBER: _ClassVar[int]
    READ_ONLY_FIELD_NUMBER: _ClassVar[int]
    HEALTHY_FIELD_NUMBER: _ClassVar[int]
    STORE_FIELD_NUMBER: _ClassVar[int]
    version: str
    start_time: _timestamp_pb2.Timestamp
    principal: str
    rights: _containers.RepeatedScalarFieldContainer[str]
    authenticates: bool
    read_only: bool
    healthy: bool
    store: str
    def __init__(self, version: _Optional[str] = ..., start_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., principal: _Optional[str] = ..., rights: _Optional[_Iterable[str]] = ..., authenticates: bool = ..., read_only: bool = ..., healthy: bool = ..., store: _Optional[str] = ...) -> None: ...

class CodecInfo(_message.Message):
    __slots__ = ("id", "kind", "number")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[CodecInfo.Kind]
        KIND_QUANTIZER: _ClassVar[CodecInfo.Kind]
        KIND_FILTER: _ClassVar[CodecInfo.Kind]
        KIND_COMPRESSOR: _ClassVar[CodecInfo.Kind]
    KIND_UNSPECIFIED: CodecInfo.Kind
    KIND_QUANTIZER: CodecInfo.Kind
    KIND_FILTER: CodecInfo.Kind
    KIND_COMPRESSOR: CodecInfo.Kind
    ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    id: str
    kind: CodecInfo.Kind
    number: int
    def __init__(self, id: _Optional[str] = ..., kind: _Optional[_Union[CodecInfo.Kind, str]] = ..., number: _Optional[int] = ...) -> None: ...

class PresetInfo(_message.Message):
    __slots__ = ("id", "description", "encoding", "lossy")
    ID_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    LOSSY_FIELD_NUMBER: _ClassVar[int]
    id: str
    description: str
    encoding: Encoding
    lossy: bool
    def __init__(self, id: _Optional[str] = ..., description: _Optional[str] = ..., encoding: _Optional[_Union[Encoding, _Mapping]] = ..., lossy: bool = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("payload_bytes", "message_bytes", "segments_per_message", "chunk_bytes_min", "chunk_bytes_max", "chunk_bytes_default", "tensor_bytes", "rank", "id_bytes", "dataset_name_bytes", "metadata_bytes", "metadata_depth", "filter_depth", "filter_conditions", "filter_values", "page_size", "reads_per_get", "ids_per_delete", "payload_bytes_min", "unacknowledged_bytes", "open_items", "items_together", "request_id_bytes", "resumable_bytes_min", "metadata_key_bytes", "indexed_text_bytes", "filter_text_bytes", "filter_values_total", "sample", "explain_bytes", "explain_candidates", "snapshot_name_bytes", "restored_tensors", "retention_s", "copies_per_call", "dataset_copy_tensors", "known_per_insert", "plans_per_call")
    PAYLOAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_PER_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    CHUNK_BYTES_MIN_FIELD_NUMBER: _ClassVar[int]
    CHUNK_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    CHUNK_BYTES_DEFAULT_FIELD_NUMBER: _ClassVar[int]
    TENSOR_BYTES_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    ID_BYTES_FIELD_NUMBER: _ClassVar[int]
    DATASET_NAME_BYTES_FIELD_NUMBER: _ClassVar[int]
    METADATA_BYTES_FIELD_NUMBER: _ClassVar[int]
    METADATA_DEPTH_FIELD_NUMBER: _ClassVar[int]
    FILTER_DEPTH_FIELD_NUMBER: _ClassVar[int]
    FILTER_CONDITIONS_FIELD_NUMBER: _ClassVar[int]
    FILTER_VALUES_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    READS_PER_GET_FIELD_NUMBER: _ClassVar[int]
    IDS_PER_DELETE_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_BYTES_MIN_FIELD_NUMBER: _ClassVar[int]
    UNACKNOWLEDGED_BYTES_FIELD_NUMBER: _ClassVar[int]
    OPEN_ITEMS_FIELD_NUMBER: _ClassVar[int]
    ITEMS_TOGETHER_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_BYTES_FIELD_NUMBER: _ClassVar[int]
    RESUMABLE_BYTES_MIN_FIELD_NUMBER: _ClassVar[int]
    METADATA_KEY_BYTES_FIELD_NUMBER: _ClassVar[int]
    INDEXED_TEXT_BYTES_FIELD_NUMBER: _ClassVar[int]
    FILTER_TEXT_BYTES_FIELD_NUMBER: _ClassVar[int]
    FILTER_VALUES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_BYTES_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_NAME_BYTES_FIELD_NUMBER: _ClassVar[int]
    RESTORED_TENSORS_FIELD_NUMBER: _ClassVar[int]
    RETENTION_S_FIELD_NUMBER: _ClassVar[int]
    COPIES_PER_CALL_FIELD_NUMBER: _ClassVar[int]
    DATASET_COPY_TENSORS_FIELD_NUMBER: _ClassVar[int]
    KNOWN_PER_INSERT_FIELD_NUMBER: _ClassVar[int]
    PLANS_PER_CALL_FIELD_NUMBER: _ClassVar[int]
    payload_bytes: int
    message_bytes: int
    segments_per_message: int
    chunk_bytes_min: int
    chunk_bytes_max: int
    chunk_bytes_default: int
    tensor_bytes: int
    rank: int
    id_bytes: int
    dataset_name_bytes: int
    metadata_bytes: int
    metadata_depth: int
    filter_depth: int
    filter_conditions: int
    filter_values: int
    page_size: int
    reads_per_get: int
    ids_per_delete: int
    payload_bytes_min: int
    unacknowledged_bytes: int
    open_items: int
    items_together: int
    request_id_bytes: int
    resumable_bytes_min: int
    metadata_key_bytes: int
    indexed_text_bytes: int
    filter_text_bytes: int
    filter_values_total: int
    sample: int
    explain_bytes: int
    explain_candidates: int
    snapshot_name_bytes: int
    restored_tensors: int
    retention_s: int
    copies_per_call: int
    dataset_copy_tensors: int
    known_per_insert: int
    plans_per_call: int
    def __init__(self, payload_bytes: _Optional[int] = ..., message_bytes: _Optional[int] = ..., segments_per_message: _Optional[int] = ..., chunk_bytes_min: _Optional[int] = ..., chunk_bytes_max: _Optional[int] = ..., chunk_bytes_default: _Optional[int] = ..., tensor_bytes: _Optional[int] = ..., rank: _Optional[int] = ..., id_bytes: _Optional[int] = ..., dataset_name_bytes: _Optional[int] = ..., metadata_bytes: _Optional[int] = ..., metadata_depth: _Optional[int] = ..., filter_depth: _Optional[int] = ..., filter_conditions: _Optional[int] = ..., filter_values: _Optional[int] = ..., page_size: _Optional[int] = ..., reads_per_get: _Optional[int] = ..., ids_per_delete: _Optional[int] = ..., payload_bytes_min: _Optional[int] = ..., unacknowledged_bytes: _Optional[int] = ..., open_items: _Optional[int] = ..., items_together: _Optional[int] = ..., request_id_bytes: _Optional[int] = ..., resumable_bytes_min: _Optional[int] = ..., metadata_key_bytes: _Optional[int] = ..., indexed_text_bytes: _Optional[int] = ..., filter_text_bytes: _Optional[int] = ..., filter_values_total: _Optional[int] = ..., sample: _Optional[int] = ..., explain_bytes: _Optional[int] = ..., explain_candidates: _Optional[int] = ..., snapshot_name_bytes: _Optional[int] = ..., restored_tensors: _Optional[int] = ..., retention_s: _Optional[int] = ..., copies_per_call: _Optional[int] = ..., dataset_copy_tensors: _Optional[int] = ..., known_per_insert: _Optional[int] = ..., plans_per_call: _Optional[int] = ...) -> None: ...

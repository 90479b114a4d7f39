"""Configurations, presets and factories: checked at once, never changed, and the same to a store."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import tensorus
from support.arrays import assert_same_bits, normal
from support.cases import each
from tensorus._grpc.convert_dataset import merged_shares
from tensorus.compression import (
    COMPRESSION_PRESETS,
    CompressionConfig,
    GZIPCompression,
    INT8BlockQuantization,
    INT8Quantization,
    TensorCompression,
    create_compression_algorithm,
    create_quantization_algorithm,
    get_compression_preset,
)
from tensorus.tensor_storage import TensorStorage
from tensorus.types import Policy
from tensorus_codecs.presets import PRESETS
from tensorus_codecs.registry import available_codecs

OLD_PRESETS: dict[str, tuple[str, str, dict[str, int]]] = {
    "none": ("none", "none", {}),
    "fast": ("lz4", "none", {"compression_level": 1}),
    "balanced": ("gzip", "fp16", {"compression_level": 6}),
    "maximum": ("gzip", "int8", {"compression_level": 9}),
    "fp16_only": ("none", "fp16", {}),
    "int8_only": ("none", "int8", {}),
}

CHAINS = [
    CompressionConfig("gzip", "fp16"),
    CompressionConfig("gzip", "int8", {"compression_level": 9}),
    CompressionConfig("gzip", "int8_block", None, {"block_size": 128}),
    CompressionConfig("lz4", "none", {"compression_level": 4}),
    CompressionConfig("zstd", "bitround", None, {"keep_bits": 5}),
    CompressionConfig("brotli", "nf4", {"compression_level": 1}),
    CompressionConfig("blosc_lz4"),
    CompressionConfig("pcodec", "int4_block", {"compression_level": 4}, {"block_size": 64}),
    CompressionConfig("zstd", "auto", None, {"max_relative_error": 1e-3}),
    CompressionConfig("none", "auto", None, {"max_absolute_error": 1e-2}),
    CompressionConfig("none", "fp8_e4m3fn"),
    CompressionConfig("gzip", "int8", None, {"max_relative_error": 6e-3, "max_absolute_error": 1.0}),
]


# ---- Configurations -----------------------------------------------------------------------------------------------------


def test_the_default_is_nothing_over_nothing() -> None:
    config = CompressionConfig()
    assert (config.compression, config.quantization, config.preset) == ("none", "none", None)
    compressor = config.create_tensor_compression()
    assert compressor.compression_algorithm.name == "none"
    assert compressor.quantization_algorithm.name == "none"


def test_arguments_reach_the_algorithms() -> None:
    config = CompressionConfig(
        compression="gzip", quantization="int8", compression_kwargs={"compression_level": 9}, quantization_kwargs={}
    )
    compressor = config.create_tensor_compression()
    assert compressor.compression_algorithm == GZIPCompression(9)
    assert compressor.quantization_algorithm == INT8Quantization()


def test_a_dict_makes_a_configuration() -> None:
    config = CompressionConfig.from_dict(
        {
            "compression": "lz4",
            "quantization": "fp16",
            "compression_kwargs": {"compression_level": 2},
            "quantization_kwargs": {},
        }
    )
    assert (config.compression, config.quantization) == ("lz4", "fp16")
    assert config.compression_kwargs["compression_level"] == 2
    assert CompressionConfig.from_dict({}) == CompressionConfig()
    assert CompressionConfig.from_dict({"compression_kwargs": None}) == CompressionConfig()


def test_a_configuration_makes_a_dict() -> None:
    assert CompressionConfig("gzip", "int8").to_dict() == {
        "compression": "gzip",
        "quantization": "int8",
        "compression_kwargs": {},
        "quantization_kwargs": {},
    }


@each("config", [*CHAINS, *COMPRESSION_PRESETS.values()])
def test_a_configuration_survives_json_pickle_and_copies(config: CompressionConfig) -> None:
    assert CompressionConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    for same in (pickle.loads(pickle.dumps(config)), copy.deepcopy(config), copy.copy(config)):
        assert same == config
        assert same.preset == config.preset
        assert hash(same) == hash(config)


@each(
    ("make", "message"),
    [
        (lambda: CompressionConfig("xz"), r"compression 'xz' is not one of none, gzip, lz4, zstd, brotli"),
        (lambda: CompressionConfig("gzip", "int7"), r"quantization 'int7' is not one of none, int8, int8_block, fp16"),
        (lambda: CompressionConfig(["gzip"]), r"compression \['gzip'\] is not one of"),  # type: ignore[arg-type]
        (
            lambda: CompressionConfig("gzip", compression_kwargs={"level": 9}),
            r"compression 'gzip' has no argument 'level'; its arguments: compression_level",
        ),
        (
            lambda: CompressionConfig("none", compression_kwargs={"compression_level": 9}),
            r"compression 'none' has no argument 'compression_level'; its arguments: none",
        ),
        (
            lambda: CompressionConfig("gzip", compression_kwargs={"compression_level": "9"}),
            r"compression_level of gzip is '9', must be an integer",
        ),
        (lambda: CompressionConfig("gzip", compression_kwargs={"name": 9}), r"has no argument 'name'"),
        (lambda: CompressionConfig("gzip", compression_kwargs={1: 9}), r"has no argument 1"),  # type: ignore[dict-item]
        (lambda: CompressionConfig("gzip", compression_kwargs=9), r"compression_kwargs is 9, must be a dict"),  # type: ignore[arg-type]
        (
            lambda: CompressionConfig("none", "int8_block", None, {"block_size": 100}),
            r"block_size of codec int8_block is 100, must be one of",
        ),
        (
            lambda: CompressionConfig("none", "int8", None, {"block_size": 64}),
            r"quantization 'int8' has no argument 'block_size'; its arguments: max_relative_error",
        ),
        (lambda: CompressionConfig.from_dict({"preset": "best"}), r"preset 'best' is not one of none, fast"),
        (
            lambda: CompressionConfig.from_dict({"preset": "balanced", "quantization": "int8"}),
            r"quantization of preset 'balanced' is 'fp16', not 'int8'",
        ),
    ],
)
def test_what_is_not_known_is_refused_at_once_with_what_is(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_configuration_does_not_change() -> None:
    arguments = {"compression_level": 9}
    config = CompressionConfig("gzip", "int8", arguments)
    arguments["compression_level"] = 1
    assert config.compression_kwargs["compression_level"] == 9
    with pytest.raises(dataclasses.FrozenInstanceError, match=r"dataclasses.replace\(config, compression=...\) makes"):
        config.compression = "lz4"
    with pytest.raises(AttributeError, match="cannot delete quantization of a CompressionConfig"):
        del config.quantization
    with pytest.raises(TypeError):
        config.compression_kwargs["compression_level"] = 1  # type: ignore[index]
    described = config.to_dict()
    described["compression_kwargs"]["compression_level"] = 1
    assert config.compression_kwargs["compression_level"] == 9


def test_a_changed_configuration_is_another_one() -> None:
    config = CompressionConfig("gzip", "int8", {"compression_level": 9})
    changed = dataclasses.replace(config, compression="lz4")
    assert changed == CompressionConfig("lz4", "int8", {"compression_level": 9})
    assert config == CompressionConfig("gzip", "int8", {"compression_level": 9})
    with pytest.raises(ValueError, match="compression 'xz' is not one of"):
        dataclasses.replace(config, compression="xz")
    # Of a preset of the store only the names stay.
    by_hand = dataclasses.replace(get_compression_preset("maximum"), quantization="fp16")
    assert by_hand == CompressionConfig("gzip", "fp16", {"compression_level": 9})
    assert by_hand.preset is None


def test_a_key_that_is_not_known_is_ignored_with_a_warning() -> None:
    with pytest.warns(
        UserWarning, match="a compression configuration has no 'compresion', 'author', and ignores it; it has"
    ):
        config = CompressionConfig.from_dict({"compresion": "lz4", "compression": "gzip", "author": 7})
    assert config == CompressionConfig("gzip")


def test_configurations_are_keys() -> None:
    assert len({CompressionConfig("gzip"), CompressionConfig("gzip"), CompressionConfig("lz4")}) == 2
    assert len({*COMPRESSION_PRESETS.values(), *COMPRESSION_PRESETS.values()}) == len(COMPRESSION_PRESETS)


# ---- Presets ------------------------------------------------------------------------------------------------------------


@each("name", OLD_PRESETS)
def test_the_presets_of_tensorus_0_x_have_their_names_and_levels(name: str) -> None:
    config = get_compression_preset(name)
    assert isinstance(config, CompressionConfig)
    compression, quantization, arguments = OLD_PRESETS[name]
    assert (config.compression, config.quantization) == (compression, quantization)
    assert config.compression_kwargs == arguments
    assert config.quantization_kwargs == {}


def test_every_preset_of_the_store_is_there_and_says_so() -> None:
    assert set(COMPRESSION_PRESETS) == set(PRESETS)
    for name, config in COMPRESSION_PRESETS.items():
        assert get_compression_preset(name) is config
        assert config.preset == name
        assert config.to_policy() == Policy(preset=name)


def test_a_preset_that_is_none_is_refused_with_those_that_are() -> None:
    with pytest.raises(ValueError, match="preset 'invalid_preset' is not one of none, fast, balanced, maximum"):
        get_compression_preset("invalid_preset")


@pytest.fixture
def presets() -> Iterator[dict[str, CompressionConfig]]:
    """Return the table of presets, which is as it was afterwards."""
    before = dict(COMPRESSION_PRESETS)
    yield COMPRESSION_PRESETS
    COMPRESSION_PRESETS.clear()
    COMPRESSION_PRESETS.update(before)


def test_a_preset_of_one_s_own_is_found_by_its_name(presets: dict[str, CompressionConfig]) -> None:
    presets["mine"] = CompressionConfig("gzip", "int8", {"compression_level": 3})
    assert "mine" in COMPRESSION_PRESETS
    assert get_compression_preset("mine") is presets["mine"]
    bounded = get_compression_preset("mine", max_relative_error=1e-2)
    assert bounded == CompressionConfig("gzip", "int8", {"compression_level": 3}, {"max_relative_error": 1e-2})
    assert bounded.preset is None
    with TensorStorage(None, compression_preset="mine") as storage:
        assert storage.compression_config == presets["mine"]
        storage.create_dataset("weights")
        record_id = storage.insert("weights", normal((100, 100)))
        found = storage.get_tensor_by_id("weights", record_id)["metadata"]["compression_metadata"]
        assert (found["compression"], found["quantization"]) == ("gzip-3", "int8")
        assert [share["codecs"] for share in found["encodings"]] == [["int8_block", "gzip"]]
        storage.set_compression_preset("mine")
    with pytest.raises(ValueError, match=r"preset 'yours' is not one of none, .*, mine"):
        get_compression_preset("yours")


def test_a_name_of_the_store_s_may_be_taken_and_its_preset_is_still_read(presets: dict[str, CompressionConfig]) -> None:
    of_store = presets["balanced"]
    presets["balanced"] = CompressionConfig("zstd")
    assert get_compression_preset("balanced") == CompressionConfig("zstd")
    assert pickle.loads(pickle.dumps(of_store)) == of_store
    assert CompressionConfig.from_dict(of_store.to_dict()) == of_store
    del presets["balanced"]
    with pytest.raises(ValueError, match="preset 'balanced' is not one of none, fast, maximum"):
        get_compression_preset("balanced")
    assert CompressionConfig.from_dict(of_store.to_dict()) == of_store


def test_a_preset_that_is_no_configuration_is_named(presets: dict[str, Any]) -> None:
    presets["mine"] = {"compression": "gzip"}
    with pytest.raises(TypeError, match="preset 'mine' in COMPRESSION_PRESETS is a dict, must be a CompressionConfig"):
        get_compression_preset("mine")


@each("name", OLD_PRESETS)
def test_the_same_values_by_hand_mean_literally_that_chain(name: str) -> None:
    by_hand = CompressionConfig(*OLD_PRESETS[name])
    assert by_hand.preset is None
    assert by_hand != get_compression_preset(name)
    assert "preset" not in by_hand.to_dict()


def test_an_explicit_chain_is_the_codecs_it_names() -> None:
    config = CompressionConfig("gzip", "fp16", {"compression_level": 6})
    assert config.to_policy() == Policy(
        encoding=[{"id": "fp16", "configuration": {}}, {"id": "gzip", "configuration": {"level": 6}}]
    )
    assert CompressionConfig().to_policy() == Policy(preset="none")
    _, metadata = config.create_tensor_compression().compress_tensor(np.zeros((100, 100), np.float32))
    assert [share["codecs"] for share in metadata["encodings"]] == [["fp16", "gzip"]]


def test_a_preset_is_the_store_s_chain_under_the_names_of_tensorus_0_x() -> None:
    _, metadata = get_compression_preset("maximum").create_tensor_compression().compress_tensor(normal((300, 300)))
    assert (metadata["compression"], metadata["quantization"]) == ("gzip-9", "int8")
    assert [share["codecs"] for share in metadata["encodings"]] == [["int8_block", "zstd"]]
    assert metadata["relative_error"] <= 1e-2


@each("bound", [1e-1, 1e-2, 1e-3])
@each("name", ["auto", "maximum", "extreme"])
def test_a_preset_with_a_bound_keeps_it(name: str, bound: float) -> None:
    config = get_compression_preset(name, max_relative_error=bound)
    assert (config.preset, config.to_policy()) == (name, Policy(preset=name, max_relative_error=bound))
    assert config != get_compression_preset(name)
    assert CompressionConfig.from_dict(config.to_dict()) == config
    _, metadata = config.create_tensor_compression().compress_tensor(normal((300, 300)))
    assert metadata["relative_error"] <= bound
    if name == "auto":
        assert metadata["lossy"]
    with pytest.raises(ValueError, match="quantization 'none' has no argument 'max_relative_error'"):
        get_compression_preset("fast", max_relative_error=bound)


def test_auto_without_a_bound_is_lossless() -> None:
    values = normal((100, 100))
    compressed, metadata = get_compression_preset("auto").create_tensor_compression().compress_tensor(values)
    assert not metadata["lossy"]
    assert_same_bits(TensorCompression().decompress_tensor(compressed, as_="numpy"), values)


# ---- A store ------------------------------------------------------------------------------------------------------------

TENSORS = {
    "weights": normal((700, 500)),
    "float64": normal((100, 9), "float64"),
    "bfloat16": normal((100, 9), "bfloat16"),
    "ids": np.arange(1000) * 7,
    "with NaN": np.array([1, np.nan, 3], np.float32),
    "a mask": np.arange(999) % 3 == 0,
    "a constant": np.full((300, 300), 3.14, np.float32),
    "empty": np.empty((0, 3), np.float32),
    "complex": normal((50, 50), scale=1.0) * np.complex64(1 + 2j),
}


@pytest.mark.slow
@pytest.mark.parametrize("config", [*CHAINS, *COMPRESSION_PRESETS.values()], ids=repr)
def test_a_store_makes_of_the_policy_what_is_made_here(
    config: CompressionConfig, embedded: tensorus.Client, dataset: str
) -> None:
    embedded.create_dataset(dataset)
    compressor = config.create_tensor_compression()
    for name, values in TENSORS.items():
        info = embedded.insert(dataset, values, id=name, policy=config.to_policy())
        compressed, metadata = compressor.compress_tensor(values)
        # A store tells encodings apart by the codecs' settings, too.
        shares = [
            (share.codecs, share.chunks, share.canonical_bytes, share.stored_bytes)
            for share in merged_shares(info.encodings)
        ]
        assert sorted((tuple(share["codecs"]), *list(share.values())[1:]) for share in metadata["encodings"]) == sorted(
            shares
        )
        assert (metadata["relative_error"], metadata["lossy"]) == (info.relative_error, info.lossy)
        assert (metadata["max_absolute_error"], metadata["fallback"] or "") == (
            info.max_absolute_error,
            info.fallback_reason,
        )
        expected = embedded.get(dataset, name, as_="numpy")
        assert_same_bits(compressor.decompress_tensor(compressed, metadata, as_="numpy"), expected)


# ---- Factories ----------------------------------------------------------------------------------------------------------


def test_compressors_are_made_by_name() -> None:
    algorithm = create_compression_algorithm("gzip", compression_level=3)
    assert isinstance(algorithm, GZIPCompression)
    assert algorithm.name == "gzip-3"
    with pytest.raises(ValueError, match="compression 'invalid_algo' is not one of none, gzip, lz4, zstd"):
        create_compression_algorithm("invalid_algo")


def test_quantizers_are_made_by_name() -> None:
    algorithm = create_quantization_algorithm("int8_block", block_size=32)
    assert isinstance(algorithm, INT8BlockQuantization)
    assert (algorithm.name, algorithm.block_size) == ("int8_block", 32)
    assert create_quantization_algorithm("int8") == INT8Quantization()
    with pytest.raises(ValueError, match="quantization 'invalid_algo' is not one of none, int8, int8_block, fp16"):
        create_quantization_algorithm("invalid_algo")


def test_every_codec_of_ours_has_a_name_here() -> None:
    policies = [
        create_compression_algorithm(name).policy for name in ("gzip", "lz4", "zstd", "brotli", "blosc_lz4", "pcodec")
    ]
    names = ("int8", "fp16", "bf16", "int4_block", "nf4", "fp8_e4m3fn", "fp8_e5m2", "bitround")
    policies += [create_quantization_algorithm(name).policy for name in names]
    used = {step if isinstance(step, str) else step["id"] for policy in policies for step in policy.encoding or ()}
    ours = {entry.id for entry in available_codecs() if entry.kind.__name__ != "Filter"}
    # What `auto` goes through between int8_block and bitround, and nobody asks for.
    assert used == ours - {"int16_block"}

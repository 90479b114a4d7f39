"""The client's values: immutable, comparable, with ratios that never divide by zero."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import threading
from typing import Any

import pytest

from support.cases import each
from support.tensor_infos import tensor_info
from tensorus import types
from tensorus.types import DatasetStats, NewTensor, Policy, Progress, Record, Schema, TensorInfo

CLASSES = [getattr(types, name) for name in types.__all__ if dataclasses.is_dataclass(getattr(types, name))]


def dataset_stats(**fields: Any) -> DatasetStats:
    filled: dict[str, Any] = {
        "tensors": 2,
        "lossy_tensors": 0,
        "canonical_bytes": 24,
        "quantized_bytes": 24,
        "stored_bytes": 48,
        "worst_relative_error": 0.0,
        "worst_max_absolute_error": 0.0,
        "dtypes": (),
        "encodings": (),
    }
    return DatasetStats(**{**filled, **fields})


@each("kind", CLASSES)
def test_every_value_is_frozen(kind: Any) -> None:
    assert kind.__dataclass_params__.frozen


@each(
    "value", [Policy(), Schema(), Record(tensor_info(), None), NewTensor(None), Progress(None, 0, None), tensor_info()]
)
def test_a_field_cannot_be_set(value: Any) -> None:
    name = dataclasses.fields(value)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError, match=name):
        setattr(value, name, None)


@each("make", [tensor_info, dataset_stats])
@pytest.mark.parametrize(
    ("canonical_bytes", "stored_bytes", "ratio"),
    [
        pytest.param(100, 25, 4.0, id="smaller on disk"),
        pytest.param(24, 48, 0.5, id="larger on disk"),
        pytest.param(0, 29, 1.0, id="empty"),
        pytest.param(0, 0, 1.0, id="nothing at all"),
        pytest.param(100, 0, 1.0, id="nothing on disk"),
    ],
)
def test_the_ratio_is_canonical_bytes_over_bytes_on_disk(
    make: Any, canonical_bytes: int, stored_bytes: int, ratio: float
) -> None:
    assert make(canonical_bytes=canonical_bytes, stored_bytes=stored_bytes).ratio == ratio


@each("make", [tensor_info, dataset_stats])
@pytest.mark.parametrize(
    ("sizes", "quantizer_ratio", "compressor_ratio"),
    [
        pytest.param((100, 50, 40), 2.0, 1.25, id="both"),
        pytest.param((100, 100, 80), 1.0, 1.25, id="lossless"),
        pytest.param((100, 50, 50), 2.0, 1.0, id="the quantizer alone"),
        pytest.param((24, 24, 48), 1.0, 0.5, id="more framing than savings"),
    ],
)
def test_the_ratio_is_the_quantizers_share_times_the_compressors(
    make: Any, sizes: tuple[int, int, int], quantizer_ratio: float, compressor_ratio: float
) -> None:
    canonical_bytes, quantized_bytes, stored_bytes = sizes
    made = make(canonical_bytes=canonical_bytes, quantized_bytes=quantized_bytes, stored_bytes=stored_bytes)
    assert (made.quantizer_ratio, made.compressor_ratio) == (quantizer_ratio, compressor_ratio)
    assert made.ratio == pytest.approx(quantizer_ratio * compressor_ratio)


@each("make", [tensor_info, dataset_stats])
@each("stored_bytes", [0, 29], ids=["nothing at all", "framing"])
def test_every_ratio_of_nothing_is_1(make: Any, stored_bytes: int) -> None:
    made = make(canonical_bytes=0, quantized_bytes=0, stored_bytes=stored_bytes)
    assert (made.ratio, made.quantizer_ratio, made.compressor_ratio) == (1.0, 1.0, 1.0)


class TestLazyFields:
    """Whether its fields were worked out yet nobody can tell."""

    @staticmethod
    def lazy(asked: list[int] | None = None) -> TensorInfo:
        full = vars(tensor_info(metadata={"a": 1}))
        known = {name: full[name] for name in ("dataset", "id", "dtype", "shape", "metadata")}

        def rest() -> dict[str, Any]:
            if asked is not None:
                asked.append(1)
            return {name: value for name, value in full.items() if name not in known}

        return TensorInfo.lazily(known, rest)

    @each(
        "look",
        [
            pytest.param(lambda info: info, id="as it is"),
            pytest.param(copy.copy, id="copied"),
            pytest.param(copy.deepcopy, id="copied deeply"),
            pytest.param(lambda info: pickle.loads(pickle.dumps(info)), id="pickled"),
            pytest.param(dataclasses.replace, id="replaced"),
            pytest.param(lambda info: TensorInfo(**dataclasses.asdict(info)), id="as a dict"),
        ],
    )
    def test_it_is_the_same_as_one_that_was_made_at_once(self, look: Any) -> None:
        expected = tensor_info(metadata={"a": 1})
        found = look(self.lazy())
        assert type(found) is TensorInfo
        assert repr(found) == repr(expected)
        assert look(self.lazy()) == expected
        assert expected == look(self.lazy())
        assert vars(found) == vars(expected)

    def test_what_is_known_asks_for_nothing_and_the_rest_once(self) -> None:
        asked: list[int] = []
        info = self.lazy(asked)
        assert (info.id, info.shape) == ("t", (2, 3))
        assert asked == []
        assert (info.stored_bytes, info.ratio, info.ordinal) == (48, 0.5, 1)
        assert asked == [1]

    def test_a_field_that_does_not_exist_is_missed_as_ever(self) -> None:
        info: Any = self.lazy()
        for _ in range(2):
            with pytest.raises(AttributeError, match="'TensorInfo' object has no attribute 'sise'"):
                _ = info.sise
        assert not hasattr(info, "_rest")

    def test_no_field_can_be_set(self) -> None:
        info: Any = self.lazy()
        for name in ("id", "stored_bytes"):
            with pytest.raises(dataclasses.FrozenInstanceError, match=name):
                setattr(info, name, 1)

    def test_many_threads_may_ask_at_once(self) -> None:
        infos, found = [self.lazy() for _ in range(200)], []
        barrier = threading.Barrier(4)

        def ask() -> None:
            barrier.wait(30)
            found.extend([info.created for info in infos])

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [tensor_info().created] * 800


def test_what_is_not_given_means_anything_goes() -> None:
    assert Policy() == Policy(None, None, None, None, None)
    assert Schema() == Schema(None, None, {})
    assert NewTensor(1) == NewTensor(1, None, None, None)


def test_two_schemas_do_not_share_their_metadata() -> None:
    assert Schema().metadata is not Schema().metadata


def test_everything_public_is_exported() -> None:
    ours = {name for name, found in vars(types).items() if getattr(found, "__module__", None) == types.__name__}
    assert {name for name in ours if not name.startswith("_")} <= set(types.__all__)
    assert all(hasattr(types, name) for name in types.__all__)

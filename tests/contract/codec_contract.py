"""What codecs of every kind promise: names that never change, and settings that survive JSON.

A codec's test is a subclass of its kind's contract (`codec_compressor_contract`, `codec_filter_contract`,
`codec_quantizer_contract`), which in turn is one of `CodecContract`. Where the codec has settings, the test is a subclass of
`SettingsContract`, too.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier
from typing import ClassVar, TypeVar

import pytest

from support.cases import each
from tensorus_codecs.abc import Codec, Configuration
from tensorus_codecs.errors import InvalidPolicyError
from tensorus_codecs.registry import available_codecs, codec_by_id, codec_by_number, codec_class, codec_id

T = TypeVar("T")

_THREADS = 4


@dataclass(frozen=True)
class Refusal:
    """A setting that the codec must refuse."""

    key: str
    value: object
    allowed: str
    """What the message must say about the values that are allowed."""

    def __str__(self) -> str:
        return f"{self.key}={self.value!r}"


def in_threads(work: Callable[[], T]) -> list[T]:
    """Return what `work` returns in each of several threads that start together."""
    together = Barrier(_THREADS)

    def run(_: int) -> T:
        together.wait()
        return work()

    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(run, range(_THREADS)))


each_configuration = each("configuration", lambda test: test.configurations)
each_codec = each("codec", lambda test: map(test.codec_type.from_configuration, test.configurations))


class CodecContract:
    """What every codec promises. A subclass says which codec it is, by names that are frozen here a second time."""

    kind: ClassVar[type[Codec]]
    codec_type: ClassVar[type[Codec]]
    id: ClassVar[str]
    number: ClassVar[int]
    configurations: ClassVar[tuple[Configuration, ...]] = ({},)
    """The settings under test; a codec that has some overrides this with several."""

    def test_its_id_and_number_are_what_they_have_always_been(self) -> None:
        assert (self.codec_type.id, self.codec_type.number) == (self.id, self.number)

    def test_the_registry_knows_its_id_and_its_number(self) -> None:
        assert codec_class(self.id) is self.codec_type
        assert codec_by_number(self.kind, self.number) is self.codec_type
        assert codec_id(self.kind, self.number) == self.id

    def test_the_registry_has_it_once_under_its_kind(self) -> None:
        entries = [entry for entry in available_codecs() if entry.id == self.id]
        assert [(entry.kind, entry.number, entry.load()) for entry in entries] == [
            (self.kind, self.number, self.codec_type)
        ]

    @each_codec
    def test_its_configuration_survives_json(self, codec: Codec) -> None:
        text = json.dumps(codec.configuration)
        found = codec_by_id(self.id, json.loads(text))
        assert found == codec
        assert type(found) is self.codec_type
        assert json.dumps(found.configuration) == text

    @each_configuration
    def test_its_configuration_holds_what_differs_from_the_defaults(self, configuration: Configuration) -> None:
        codec = self.codec_type.from_configuration(configuration)
        defaults = {field.name: field.default for field in dataclasses.fields(codec)}
        assert codec.configuration == {key: value for key, value in configuration.items() if value != defaults[key]}

    @each_configuration
    def test_equal_settings_make_equal_keys(self, configuration: Configuration) -> None:
        codec = self.codec_type.from_configuration(configuration)
        assert {codec: "found"}[self.codec_type.from_configuration(configuration)] == "found"

    @each_codec
    def test_it_cannot_be_changed(self, codec: Codec) -> None:
        with pytest.raises(dataclasses.FrozenInstanceError):
            codec.level = 1  # type: ignore[attr-defined]  # that is what must not work

    def test_an_unknown_setting_is_refused_by_name(self) -> None:
        known = ", ".join(sorted(field.name for field in dataclasses.fields(self.codec_type))) or "none"
        message = rf"^codec {self.id} has no setting 'no_such_setting'; its settings: {known}$"
        with pytest.raises(InvalidPolicyError, match=message):
            self.codec_type.from_configuration({"no_such_setting": 1})


class SettingsContract:
    """What a codec with settings promises beside."""

    codec_type: ClassVar[type[Codec]]
    refusals: ClassVar[tuple[Refusal, ...]]

    @each("refusal", lambda test: test.refusals)
    def test_a_value_outside_the_rule_is_refused_with_key_value_and_rule(self, refusal: Refusal) -> None:
        with pytest.raises(InvalidPolicyError) as caught:
            self.codec_type.from_configuration({refusal.key: refusal.value})
        message = str(caught.value)
        assert message.startswith(f"{refusal.key} of codec {self.codec_type.id} is {refusal.value!r}, ")
        assert message.endswith(f"must be {refusal.allowed}")

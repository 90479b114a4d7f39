"""A server's settings: the share of each worker, and the way to another process."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest

from support.cases import each
from tensorus_server.config import EngineConfig, ServerConfig
from tensorus_server.processes.supervisor import _Supervisor

DATA = Path("data")


@each(
    ("workers", "codec_threads", "streams", "memory_bytes"),
    [(1, 8, 64, 2**30), (2, 4, 32, 2**29), (3, 3, 22, 357913942), (100, 1, 1, 10737419)],
)
def test_each_worker_has_its_share_rounded_up(
    workers: int, codec_threads: int, streams: int, memory_bytes: int
) -> None:
    config = ServerConfig(EngineConfig(DATA, 8, reserve_bytes=5), "host:0", 64, 2**30, 7.0, workers)
    assert config.of_worker("host:1234") == ServerConfig(
        EngineConfig(DATA, codec_threads, reserve_bytes=5, cache_processes=workers),
        listen="host:1234",
        streams_max=streams,
        memory_budget_bytes=memory_bytes,
        grace_s=7.0,
        workers=1,
        shares_port=True,
    )


def test_codec_threads_that_nobody_named_are_as_many_as_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert ServerConfig(EngineConfig(DATA), workers=4).of_worker("host:1").engine.codec_threads == 2


@each(
    "config",
    [
        ServerConfig(EngineConfig(DATA)),
        ServerConfig(EngineConfig(Path("/a \udcff b"), 3, 0, 0.0, 1.5, 2.5, 3.5), "[::1]:0", 5, 7, 0.25, 2),
        ServerConfig(EngineConfig(DATA), workers=2).of_worker("host:1"),
        ServerConfig(EngineConfig(DATA, catalogue="postgresql://u:p@h/d", chunks="s3://b", cache_dir=Path("/c"))),
    ],
    ids=["as it comes", "with everything", "of a worker", "of a replica"],
)
def test_settings_come_to_another_process_as_they_are(config: ServerConfig) -> None:
    text = config.to_json()
    assert text.isascii()
    assert ServerConfig.from_json(text) == config


@each("name", ["memory_wait_s", "stall_timeout_s", "keepalive_s"])
@each("value", [0.0, -1.0, float("nan")])
def test_times_that_are_over_at_once_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is .*, must be above 0"):
        ServerConfig(EngineConfig(DATA), **{name: value})


def test_no_connections_are_refused() -> None:
    with pytest.raises(ValueError, match="connections_max is 0, must be at least 1"):
        ServerConfig(EngineConfig(DATA), connections_max=0)


def test_no_workers_are_refused() -> None:
    with pytest.raises(ValueError, match="workers is 0, must be at least 1"):
        ServerConfig(EngineConfig(DATA), workers=0)


def test_several_workers_need_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    ServerConfig(EngineConfig(DATA), workers=1)
    with pytest.raises(ValueError, match="workers is 2, must be 1 on darwin: only Linux lets processes share a port"):
        ServerConfig(EngineConfig(DATA), workers=2)


@each(
    ("settings", "description"),
    [
        ({}, "data"),
        ({"chunks": "s3://bucket/p?endpoint=http://h:1"}, "s3://bucket/p with the catalogue data/catalogue.db"),
        ({"catalogue": "postgresql://h/d", "chunks": "s3://b"}, "s3://b with the catalogue postgresql://h/d"),
        ({"catalogue": "postgresql://u:s@x@h/d", "chunks": "s3://b"}, "s3://b with the catalogue postgresql://u@h/d"),
        (
            {"catalogue": "postgres:///d?user=u&password=s&a=1", "chunks": "s3://b"},
            "s3://b with the catalogue postgres:///d?user=u&password=***&a=1",
        ),
    ],
)
def test_a_store_is_described_without_passwords(settings: dict[str, str], description: str) -> None:
    assert EngineConfig(DATA, **settings).describe() == description


def test_the_arguments_of_a_worker_have_no_settings() -> None:
    supervisor = _Supervisor(ServerConfig(EngineConfig(DATA), workers=2), ["worker"], "h:1", threading.Event())
    assert supervisor._command == ["worker"]

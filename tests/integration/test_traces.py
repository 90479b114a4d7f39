"""A program that traces itself finds the server's stages below its own calls; others pay nothing."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

import tensorus
import tensorus.aio
from support.interrupted import wait_until
from support.servers import running_server
from tensorus_server.processes.server import Server
from tensorus_server.tracing import provider as provider_module

MIB = 1024 * 1024


class Spans:
    """The spans of a program and of a server in it, which share nothing but what calls carry."""

    def __init__(self, client: InMemorySpanExporter, server: InMemorySpanExporter) -> None:
        self._client, self._server = client, server

    def of_client(self) -> list[ReadableSpan]:
        return list(self._client.get_finished_spans())

    def of_server(self, name: str) -> list[ReadableSpan]:
        return [span for span in self._server.get_finished_spans() if span.name == name]

    def call(self, method: str) -> ReadableSpan:
        """Return the server's span of the only call of a method."""
        name = f"tensorus.v1.TensorService/{method}"
        wait_until(lambda: bool(self.of_server(name)))
        (span,) = self.of_server(name)
        return span

    def clear(self) -> None:
        self._client.clear()
        self._server.clear()


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Spans:
    client, server = InMemorySpanExporter(), InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(client))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    monkeypatch.setattr(provider_module, "_exporter", lambda: server)
    monkeypatch.setattr(provider_module, "BatchSpanProcessor", SimpleSpanProcessor)
    return Spans(client, server)


@pytest.fixture
def server(spans: Spans, tmp_path: Path) -> Iterator[Server]:
    with running_server(tmp_path / "store", traces=True) as server:
        yield server


@pytest.fixture
def client(spans: Spans, server: Server) -> Iterator[tensorus.Client]:
    with tensorus.connect(server.address) as client:
        client.create_dataset("d", preset="none")
        spans.call("CreateDataset")
        spans.clear()
        yield client


def parent(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def test_an_insert_is_one_trace_through_all_stages(client: tensorus.Client, spans: Spans) -> None:
    with trace.get_tracer("program").start_as_current_span("training step") as step:
        client.insert("d", np.zeros(2 * MIB, dtype="float32"), id="large")
    of_call = spans.call("Insert")
    (of_client,) = [span for span in spans.of_client() if span.name == "tensorus Insert"]
    assert parent(of_client) == step.get_span_context().span_id
    assert parent(of_call) == of_client.context.span_id
    assert (of_client.kind, of_call.kind) == (SpanKind.CLIENT, SpanKind.SERVER)
    stages = {name: spans.of_server(name) for name in ("wait for memory", "receive", "seal", "commit")}
    for name, found in stages.items():
        assert [parent(span) for span in found] == [of_call.context.span_id], name
        assert found[0].context.trace_id == of_client.context.trace_id
        assert found[0].end_time >= found[0].start_time > 0
    assert stages["receive"][0].end_time == stages["seal"][0].start_time
    assert stages["seal"][0].end_time == stages["commit"][0].start_time
    assert stages["commit"][0].attributes["tensorus.tensor"] == "large"
    assert of_call.attributes["tensorus.dataset"] == "d"
    assert of_call.attributes["tensorus.received_bytes"] > 8 * MIB


def test_large_tensors_have_a_stage_when_they_are_read_and_small_ones_have_none(
    client: tensorus.Client, spans: Spans
) -> None:
    client.insert_many("d", {"large": np.zeros(MIB, dtype="float32"), "small": np.zeros(10)}.items())
    spans.clear()
    client.get("d", "small")
    spans.call("Get")
    assert spans.of_server("read") == []
    spans.clear()
    client.get("d", "large")
    of_call = spans.call("Get")
    (read,) = spans.of_server("read")
    assert parent(read) == of_call.context.span_id
    assert read.attributes["tensorus.tensor"] == "large"
    assert 0 <= read.attributes["tensorus.reading_seconds"] <= (read.end_time - read.start_time) / 1e9 + 0.001


def test_many_small_tensors_are_few_spans(client: tensorus.Client, spans: Spans) -> None:
    client.insert_many("d", ((str(number), np.arange(10)) for number in range(500)))
    spans.call("Insert")
    found = spans.of_server("commit")
    assert sum(span.attributes["tensorus.items"] for span in found) == 500
    assert len(found) < 50


def test_errors_are_in_both_spans_without_their_text(client: tensorus.Client, spans: Spans) -> None:
    with pytest.raises(tensorus.errors.NotFoundError):
        client.dataset("hidden-name")
    for span in (spans.call("GetDataset"), spans.of_client()[-1]):
        assert span.status.status_code is StatusCode.ERROR
        assert span.attributes["tensorus.reason"] == "DATASET_NOT_FOUND"
        assert "hidden-name" not in str(span.status.description)
        assert "hidden-name" not in str([event.attributes for event in span.events])


def test_a_call_is_of_its_own_service_on_both_sides(client: tensorus.Client, spans: Spans) -> None:
    client.access.grants()
    name = "tensorus.v1.AccessService/ListGrants"
    wait_until(lambda: bool(spans.of_server(name)))
    for span in (spans.of_server(name)[0], spans.of_client()[-1]):
        assert (span.attributes["rpc.service"], span.attributes["rpc.method"]) == (
            "tensorus.v1.AccessService",
            "ListGrants",
        )


def test_the_asynchronous_client_traces_likewise(server: Server, spans: Spans) -> None:
    async def insert() -> int:
        async with tensorus.aio.connect(server.address) as client:
            await client.create_dataset("d")
            with trace.get_tracer("program").start_as_current_span("step") as step:
                await client.insert("d", np.arange(10), id="a")
            return step.get_span_context().span_id

    step = asyncio.run(insert())
    of_call = spans.call("Insert")
    (of_client,) = [span for span in spans.of_client() if span.name == "tensorus Insert"]
    assert parent(of_client) == step
    assert parent(of_call) == of_client.context.span_id


def test_what_a_caller_does_not_sample_is_not_recorded(
    client: tensorus.Client, spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", TracerProvider(sampler=ALWAYS_OFF))
    client.insert("d", np.arange(10), id="unsampled")
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    # This one has no parent, so the server decides.
    client.insert("d", np.arange(10), id="sampled")
    spans.call("Insert")
    assert [span.attributes["tensorus.tensor"] for span in spans.of_server("commit")] == ["sampled"]


def test_a_server_that_does_not_trace_serves_clients_that_do(spans: Spans, tmp_path: Path) -> None:
    with running_server(tmp_path / "store") as server, tensorus.connect(server.address) as client:
        client.create_dataset("d")
        client.insert("d", np.arange(10), id="a")
    assert {span.name for span in spans.of_client()} >= {"tensorus CreateDataset", "tensorus Insert"}
    assert spans._server.get_finished_spans() == ()


@pytest.mark.slow
def test_a_client_imports_nothing_of_opentelemetry(tmp_path: Path) -> None:
    with running_server(tmp_path / "store") as server:
        program = f"""
import sys, tensorus
with tensorus.connect({server.address!r}) as client:
    client.create_dataset("d")
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
"""
        subprocess.run([sys.executable, "-c", program], check=True)


def test_an_exporter_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "absent")
    with pytest.raises(ImportError, match=r"no exporter absent .*OTEL_TRACES_EXPORTER.*tensorus\[otel\]"):
        provider_module.Traces()


def test_the_exporter_none_exports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    provider_module.Traces().close()


def test_a_server_that_cannot_trace_creates_no_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "absent")
    with pytest.raises(ImportError), running_server(tmp_path / "store", traces=True):
        pass
    assert not (tmp_path / "store").exists()

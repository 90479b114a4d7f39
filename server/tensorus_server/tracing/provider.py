"""Sets OpenTelemetry up for a server: its standard environment variables say where spans go, and how many of them.

    OTEL_TRACES_EXPORTER            otlp (default), console, none, or the name of an exporter that is installed
    OTEL_EXPORTER_OTLP_PROTOCOL     grpc (default) or http/protobuf
    OTEL_EXPORTER_OTLP_ENDPOINT     where the collector is, by default http://localhost:4317; and others of the exporter
    OTEL_SERVICE_NAME               by default tensorus
    OTEL_TRACES_SAMPLER             and others of the SDK

Source: https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

from __future__ import annotations

import logging
import os
import threading
from importlib.metadata import entry_points, version
from typing import TYPE_CHECKING

from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from tensorus_server.background import join_all
from tensorus_server.tracing.call_spans import CallSpans

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.sdk.trace.export import SpanExporter

__all__ = ["Traces"]

_CLOSE_S = 3.0
"""How long a server that stops waits for its last spans to be taken."""

_GROUP = "opentelemetry_traces_exporter"
"""The entry points of exporters, by which OpenTelemetry's own packages and others name theirs."""

_log = logging.getLogger(__name__)


class Traces:
    """A tracer provider of this server alone; the one of a program that the server runs in is left as it is."""

    def __init__(self, processor: SpanProcessor | None = None) -> None:
        """Begin to trace.

        Args:
            processor: takes the spans; None: the one that the environment describes.

        Raises:
            ImportError: the exporter that the environment names is not installed.
        """
        resource = Resource.create()
        if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: "tensorus"}))
        self._provider = TracerProvider(resource=resource.merge(Resource({SERVICE_VERSION: version("tensorus")})))
        if processor is None and (exporter := _exporter()) is not None:
            processor = BatchSpanProcessor(exporter)
        if processor is not None:
            self._provider.add_span_processor(processor)
        self.calls = CallSpans(self._provider.get_tracer("tensorus_server", version("tensorus")))
        """The observer of calls."""

    def close(self) -> None:
        """Send what is left, and end. What nobody takes in time is lost. Idempotent."""
        closing = threading.Thread(target=self._provider.shutdown, name="tensorus-traces-closing", daemon=True)
        closing.start()
        join_all([closing], _CLOSE_S)


def _exporter() -> SpanExporter | None:
    """Return the exporter that the environment names; None: "none".

    Raises:
        ImportError: it is not installed.
    """
    name = os.environ.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp"
    if name == "none":
        return None
    if name == "otlp":
        protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
        name = "otlp_proto_http" if protocol == "http/protobuf" else "otlp_proto_grpc"
    found = next(iter(entry_points(group=_GROUP, name=name)), None)
    if found is None:
        raise ImportError(
            f"no exporter {name} of traces is installed (OTEL_TRACES_EXPORTER): pip install 'tensorus[otel]'", name=name
        )
    exporter: SpanExporter = found.load()()
    _log.info("traces go to the exporter %s", name)
    return exporter

"""Traces: W3C trace context carried with each job, OpenTelemetry spans where an endpoint is set."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer

METADATA_KEY: Final = "traceparent"

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_random = random.Random(os.urandom(32))
os.register_at_fork(after_in_child=lambda: _random.seed(os.urandom(32)))

_current: ContextVar[str] = ContextVar("workmesh_trace_id", default="")


@dataclass(frozen=True, slots=True)
class TraceParent:
    """A W3C traceparent: which trace, which span of it, and whether it is recorded."""

    trace_id: str
    span_id: str
    sampled: bool

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"

    def child(self) -> TraceParent:
        """Return the context of a new span below this one."""
        return TraceParent(self.trace_id, f"{_nonzero(64):016x}", self.sampled)


def new_traceparent(*, sampled: bool = False) -> str:
    """Return the traceparent of a new trace."""
    return f"00-{_nonzero(128):032x}-{_nonzero(64):016x}-{'01' if sampled else '00'}"


def parse(text: str) -> TraceParent | None:
    """Read a traceparent (W3C Trace Context §3.2); None when it is malformed, as if none had come."""
    match = _TRACEPARENT.fullmatch(text)
    if match is None:
        return None
    version, trace_id, span_id, flags, rest = match.groups()
    if version == "ff" or (version == "00" and rest) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return TraceParent(trace_id, span_id, bool(int(flags, 16) & 1))


def current_trace_id() -> str:
    """Return the trace that the running task works for, or an empty string; every log line carries it."""
    return _current.get()


@contextmanager
def trace(traceparent: str) -> Iterator[None]:
    """Let the log lines of a block carry the trace of a traceparent."""
    known = parse(traceparent)
    token = _current.set(known.trace_id if known else "")
    try:
        yield
    finally:
        _current.reset(token)


class Telemetry:
    """Spans of one process; without an endpoint everything here does nothing and nothing is imported."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._provider = provider
        self._tracer: Tracer | None = provider.get_tracer("workmesh") if provider is not None else None

    @property
    def enabled(self) -> bool:
        """Whether spans go anywhere."""
        return self._tracer is not None

    @contextmanager
    def span(
        self, name: str, traceparent: str, attributes: Mapping[str, str | int | float | bool] | None = None
    ) -> Iterator[str]:
        """Record a span below a traceparent and yield its own; an exception marks it as failed.

        Yields what came in where nothing is recorded, so the context always travels on.
        """
        parent = parse(traceparent)
        if self._tracer is None or parent is None or not parent.sampled:
            with trace(traceparent):
                yield traceparent
            return
        from opentelemetry import trace as api

        context = api.SpanContext(
            int(parent.trace_id, 16), int(parent.span_id, 16), True, api.TraceFlags(api.TraceFlags.SAMPLED)
        )
        above = api.set_span_in_context(api.NonRecordingSpan(context))
        with self._tracer.start_as_current_span(name, above, attributes=dict(attributes or {})) as span:
            own = TraceParent(parent.trace_id, f"{span.get_span_context().span_id:016x}", True)
            with trace(traceparent):
                yield str(own)

    def close(self) -> None:
        """Send what is buffered, waiting up to five seconds, and end."""
        if self._provider is not None:
            self._provider.force_flush(5_000)
            self._provider.shutdown()
            self._provider = self._tracer = None


def configure(service: str, instance: str, endpoint: str) -> Telemetry:
    """Return the process's telemetry; spans go to an OTLP gRPC endpoint ("http://host:4317") unless empty."""
    if not endpoint:
        return Telemetry()
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    names = {
        "service.namespace": "workmesh",
        "service.name": f"workmesh-{service}",
        "service.instance.id": instance,
    }
    provider = TracerProvider(resource=Resource.create(names))
    exporter = OTLPSpanExporter(endpoint=endpoint, insecure=not endpoint.startswith("https://"))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return Telemetry(provider)


def _nonzero(bits: int) -> int:
    return _random.getrandbits(bits) or 1

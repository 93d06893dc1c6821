from __future__ import annotations

import sys

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from workmesh import telemetry

_TRACE = "0af7651916cd43dd8448eb211c80319c"
_SPAN = "b7ad6b7169203331"


def test_a_new_traceparent_is_well_formed_and_its_own() -> None:
    first, second = telemetry.new_traceparent(sampled=True), telemetry.new_traceparent()
    parsed = telemetry.parse(first)
    assert parsed is not None
    assert parsed.sampled
    assert str(parsed) == first
    assert first.split("-")[1] != second.split("-")[1]


def test_a_child_stays_in_the_trace_under_a_span_of_its_own() -> None:
    parent = telemetry.parse(f"00-{_TRACE}-{_SPAN}-01")
    assert parent is not None
    child = parent.child()
    assert (child.trace_id, child.sampled) == (_TRACE, True)
    assert child.span_id != _SPAN


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"00-{_TRACE}-{_SPAN}",
        f"00-{_TRACE.upper()}-{_SPAN}-01",
        f"00-{'0' * 32}-{_SPAN}-01",
        f"00-{_TRACE}-{'0' * 16}-01",
        f"ff-{_TRACE}-{_SPAN}-01",
        f"00-{_TRACE}-{_SPAN}-01-more",
    ],
)
def test_what_the_standard_calls_invalid_is_taken_for_absent(text: str) -> None:
    assert telemetry.parse(text) is None


def test_later_versions_of_the_standard_are_read_as_far_as_known() -> None:
    assert telemetry.parse(f"01-{_TRACE}-{_SPAN}-03-more") is not None


def test_without_an_endpoint_nothing_is_recorded_and_the_context_travels_on() -> None:
    quiet = telemetry.configure("ledger", "i", "")
    with quiet.span("commit", f"00-{_TRACE}-{_SPAN}-01") as inside:
        assert inside == f"00-{_TRACE}-{_SPAN}-01"
        assert telemetry.current_trace_id() == _TRACE
    assert telemetry.current_trace_id() == ""
    assert not quiet.enabled
    quiet.close()


def test_a_sampled_span_is_recorded_below_its_parent() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    recording = telemetry.Telemetry(provider)
    with recording.span("commit", f"00-{_TRACE}-{_SPAN}-01", {"jobs": 3}) as inside:
        pass
    with recording.span("unsampled", f"00-{_TRACE}-{_SPAN}-00"):
        pass
    (span,) = exporter.get_finished_spans()
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == _SPAN
    assert inside == f"00-{_TRACE}-{span.context.span_id:016x}-01"
    assert span.attributes == {"jobs": 3}
    recording.close()


def test_the_exporter_is_imported_only_when_it_is_wanted() -> None:
    import subprocess

    code = (
        "import sys; from workmesh import telemetry; telemetry.configure('a', 'b', '');"
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=30).returncode == 0

"""What a document says about its shipment, and how documents that arrive in any order make up its state."""

from __future__ import annotations

from typing import Any, Final

from examples.freight.formats.document import Document, read_document
from examples.freight.formats.iftmin import TransportInstruction

COLLECTION: Final = "shipments"

Summary = dict[str, Any]


def parse(content: str) -> Summary:
    """Reads a document into plain JSON: `{"faults": […]}` or the summary that the agent works with."""
    reading = read_document(content)
    if reading.document is None:
        faults = [{"reason": fault.reason.value, "message": str(fault)} for fault in reading.faults]
        return {"faults": faults}
    return {"faults": [], **summarize(reading.document)}


def summarize(document: Document) -> Summary:
    """Returns what customs, the ERP and the shipment's state need of a document."""
    summary: Summary = {
        "documentReference": document.document_number,
        "shipmentReference": document.booking_reference,
        "issued": document.issued.isoformat(),
        "parties": [party.name for party in document.parties],
        "vessel": document.voyage.vessel_name,
        "voyage": document.voyage.number,
    }
    if isinstance(document, TransportInstruction):
        return summary | {
            "messageType": "IFTMIN",
            "containers": [unit.container for unit in document.equipment],
            "portOfLoading": document.port_of_loading,
            "portOfDischarge": document.port_of_discharge,
        }
    event = {"status": document.status, "time": document.time.isoformat(), "location": document.location}
    return summary | {"messageType": "IFTSTA", "containers": [document.container], "event": event}


def merge(state: Summary | None, summary: Summary) -> Summary:
    """Adds a document to a shipment's state; the order in which documents come makes no difference."""
    merged: Summary = dict(state) if state else {"documents": {}, "containers": {}}
    reference = summary["documentReference"]
    merged["documents"] = merged["documents"] | {reference: summary["messageType"]}
    merged["containers"] = dict(merged["containers"])
    for container in summary["containers"]:
        known = merged["containers"].get(container)
        merged["containers"][container] = _latest(known, summary.get("event"), reference)
    if summary["messageType"] == "IFTMIN":
        route = {name: summary[name] for name in ("portOfLoading", "portOfDischarge", "vessel", "voyage")}
        instruction = route | {"document": reference}
        merged["instruction"] = max(merged.get("instruction", {}), instruction, key=_by_document)
    return merged


def _latest(known: Summary | None, event: Summary | None, reference: str) -> Summary:
    if event is None:
        return known or {}
    return max(known or {}, event | {"document": reference}, key=_by_time)


def _by_time(status: Summary) -> tuple[str, str]:
    return status.get("time", ""), status.get("document", "")


def _by_document(instruction: Summary) -> str:
    return str(instruction.get("document", ""))

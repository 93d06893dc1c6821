"""The two agents: bookings, time-critical, and documents, in bulk. All they do outside passes toolhub."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from examples.freight import schemas, shipments
from examples.freight.formats.booking import Booking, read_booking
from workmesh.sdk import BusinessError, Context, agent

Json = dict[str, Any]
CARRIERS: Final = ("carrier-a", "carrier-b")


@agent(
    "booking",
    pool="default",
    lane="critical",
    tools=["carrier-a.*", "carrier-b.*", "erp.post_order"],
    requires=["erp"],
    input_schema=schemas.BOOKING,
)
async def booking(ctx: Context) -> Json:
    """Checks a booking, asks two carriers for a rate, books the better, writes a freight order to the ERP."""
    order, faults = read_booking(ctx.input)
    if order is None:
        raise BusinessError(faults[0].reason.value, "; ".join(map(str, faults)))
    question = _question(order)
    rates = await ctx.gather(*(ctx.tool(f"{carrier}.get_rate", question) for carrier in CARRIERS))
    carrier, rate = min(zip(CARRIERS, rates, strict=True), key=_price)
    confirmation = await ctx.tool(f"{carrier}.create_booking", dict(ctx.input))
    freight_order = {
        "orderReference": order.reference,
        "carrierCode": rate["carrierCode"],
        "carrierBookingRequestReference": confirmation["carrierBookingRequestReference"],
        "amount": rate["amount"],
        "currencyCode": rate["currencyCode"],
        "expectedDepartureDate": order.departure.isoformat(),
    }
    written = await ctx.tool("erp.post_order", freight_order)
    return {"freightOrderNumber": written["freightOrderNumber"], **freight_order}


@agent(
    "document",
    pool="default",
    lane="batch",
    tools=["customs.screen_document", "erp.post_document"],
    requires=["erp", "customs"],
    input_schema=schemas.DOCUMENT,
)
async def document(ctx: Context) -> Json:
    """Reads an IFTMIN or IFTSTA, screens it with customs, posts it to the ERP and updates its shipment."""
    summary = await ctx.step("parse", shipments.parse, ctx.input["content"])
    _refuse_faulty(summary, ctx.input["documentReference"])
    references = {name: summary[name] for name in ("documentReference", "shipmentReference")}
    screening = await ctx.tool("customs.screen_document", {**references, "parties": summary["parties"]})
    if screening["decision"] != "CLEARED":
        raise BusinessError("CUSTOMS_REJECTED", f"customs refuses {', '.join(screening['matches'])}")
    posting = {
        **references,
        "messageType": summary["messageType"],
        "screeningReference": screening["screeningReference"],
        "containers": summary["containers"],
    }
    posted = await ctx.tool("erp.post_document", posting)
    merge = partial(shipments.merge, summary=summary)
    await ctx.state.update(shipments.COLLECTION, summary["shipmentReference"], merge)
    return {"postingNumber": posted["postingNumber"], **references}


def _refuse_faulty(summary: Json, reference: str) -> None:
    if summary["faults"]:
        messages = "; ".join(fault["message"] for fault in summary["faults"])
        raise BusinessError(summary["faults"][0]["reason"], messages)
    if summary["documentReference"] != reference:
        message = f"submitted as {reference}, the document says {summary['documentReference']}"
        raise BusinessError("REFERENCE_MISMATCH", message)


def _question(order: Booking) -> Json:
    return {
        "POL": order.port_of_loading,
        "POD": order.port_of_discharge,
        "ISOEquipmentCode": order.equipment_code,
        "units": order.units,
    }


def _price(offer: tuple[str, Json]) -> tuple[float, int, str]:
    carrier, rate = offer
    return rate["amount"], rate["transitDays"], carrier

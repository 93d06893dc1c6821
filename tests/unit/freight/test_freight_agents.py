from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import aiohttp
import orjson
import pytest
from aiohttp import web

import examples.freight
from examples.freight.agents import booking, document
from examples.freight.checker import expected_effects
from examples.freight.evidence import read_witness
from examples.freight.generator import Case, Generator
from examples.freight.sandbox.server import Sandbox
from examples.freight.sandbox.settings import SandboxSettings
from services.toolhub.arguments import build_request, check_arguments
from services.toolhub.integrations import Effect
from services.toolhub.reading import load_integrations
from workmesh.sdk import BusinessError, Context

INTEGRATIONS = Path(examples.freight.__file__).with_name("integrations.yaml")
HANDLERS: dict[str, Callable[[Context], Awaitable[dict[str, Any]]]] = {
    "booking": booking,
    "document": document,
}


class Desk:
    """The systems as integrations.yaml describes them, and state documents."""

    def __init__(self, address: str, session: aiohttp.ClientSession) -> None:
        self._integrations = load_integrations(INTEGRATIONS, {"FREIGHT_SANDBOX_URL": address})
        self._session = session
        self.documents: dict[tuple[str, str], Any] = {}

    async def call(self, tool: str, arguments: dict[str, Any], key: str) -> Any:
        integration, _, name = tool.partition(".")
        operation = self._integrations[integration].operations[name]
        checked = check_arguments(operation, orjson.dumps(arguments))
        request = build_request(operation, checked)
        headers = {"Idempotency-Key": key} if operation.effect is Effect.IDEMPOTENT else {}
        url = self._integrations[integration].address + request.target
        async with self._session.request(request.method, url, data=request.body, headers=headers) as response:
            assert response.status < 300, await response.text()
            return await response.json()


class HandlerContext:
    """What the two handlers use of a Context, without journal and ledger: tool calls go straight out."""

    def __init__(self, case: Case, desk: Desk) -> None:
        self.input = case.input
        self.state = self
        self._key = f"{case.reference}/1"
        self._desk = desk
        self._steps = 0

    async def tool(self, name: str, arguments: dict[str, Any]) -> Any:
        self._steps += 1
        return await self._desk.call(name, arguments, f"{self._key}/{self._steps}")

    async def step(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        value = function(*arguments)
        return orjson.loads(orjson.dumps(await value if inspect.isawaitable(value) else value))

    async def gather(self, *branches: Awaitable[Any]) -> list[Any]:
        return list(await asyncio.gather(*branches))

    async def update(self, collection: str, key: str, function: Callable[[Any], Any]) -> Any:
        changed = orjson.loads(orjson.dumps(function(self._desk.documents.get((collection, key)))))
        self._desk.documents[collection, key] = changed
        return changed


@asynccontextmanager
async def desk(record: Path) -> AsyncIterator[Desk]:
    sandbox = Sandbox(SandboxSettings(record, latency_scale=0.0))
    runner = web.AppRunner(sandbox.application(), shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        async with aiohttp.ClientSession() as session:
            yield Desk(f"http://{host}:{port}", session)
    finally:
        await runner.cleanup()
        sandbox.close()


async def outcome(case: Case, at: Desk) -> tuple[dict[str, Any] | None, str]:
    """Runs a case's handler: its result, or the code it failed with."""
    try:
        return await HANDLERS[case.agent](cast(Context, HandlerContext(case, at))), ""
    except BusinessError as error:
        return None, error.code


@pytest.mark.parametrize("agent", ["booking", "document"])
async def test_every_generated_case_has_its_outcome_and_its_effects(agent: str, tmp_path: Path) -> None:
    generator = Generator(23, faulty_share=0.3)
    cases = generator.bookings(40) if agent == "booking" else generator.documents(80)
    async with desk(tmp_path) as at:
        for case in cases:
            result, code = await outcome(case, at)
            assert code == case.reason, case.fault
            assert (result is not None) == case.succeeds
    effects = read_witness(tmp_path).effects
    for case in cases:
        for kind, count in expected_effects(case).items():
            assert len(effects.get((kind, case.reference), [])) == count


async def test_the_cheaper_carrier_gets_the_booking_and_the_order_names_it(tmp_path: Path) -> None:
    cases = Generator(3, faulty_share=0.0).bookings(8)
    async with desk(tmp_path) as at:
        results = [(await outcome(case, at))[0] for case in cases]
        for case, result in zip(cases, results, strict=True):
            question = {
                "POL": case.input["shipmentLocations"][0]["location"]["UNLocationCode"],
                "POD": case.input["shipmentLocations"][1]["location"]["UNLocationCode"],
                "ISOEquipmentCode": case.input["requestedEquipments"][0]["ISOEquipmentCode"],
                "units": case.input["requestedEquipments"][0]["units"],
            }
            offers = [
                await at.call(f"{carrier}.get_rate", question, "") for carrier in ("carrier-a", "carrier-b")
            ]
            assert result is not None
            assert result["amount"] == min(offer["amount"] for offer in offers)
            order = await at.call("erp.get_order", {"reference": case.reference}, "")
            assert (order["count"], order["freightOrderNumber"]) == (1, result["freightOrderNumber"])
        assert {result["carrierCode"] for result in results if result} == {"MAEU", "MSCU"}


async def test_documents_of_a_shipment_come_together_in_its_state(tmp_path: Path) -> None:
    cases = Generator(5, faulty_share=0.0).documents(4)
    async with desk(tmp_path) as at:
        for case in cases:
            await outcome(case, at)
    state = at.documents["shipments", cases[0].shipment]
    assert set(state["documents"]) == {case.reference for case in cases}
    assert state["instruction"]["document"] == cases[0].reference


async def test_a_document_submitted_under_another_reference_is_refused(tmp_path: Path) -> None:
    case = Generator(5, faulty_share=0.0).documents(1)[0]
    case.input["documentReference"] = "SOMETHING-ELSE"
    async with desk(tmp_path) as at:
        assert await outcome(case, at) == (None, "REFERENCE_MISMATCH")
    assert read_witness(tmp_path).effects == {}

from __future__ import annotations

import asyncio
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from examples.freight.parties import DENIED
from examples.freight.sandbox.__main__ import parse_settings
from examples.freight.sandbox.misbehaviour import Latency, Misbehaviour, Verdict, decide
from examples.freight.sandbox.record import EFFECTS, REQUESTS, Record, read_lines
from examples.freight.sandbox.server import Sandbox
from examples.freight.sandbox.settings import SandboxSettings

ORDER = {
    "orderReference": "BKG-1",
    "carrierCode": "MAEU",
    "carrierBookingRequestReference": "MAEU00000001",
    "amount": 1200,
    "currencyCode": "USD",
}
KEY = {"Idempotency-Key": "job/1/step"}


class Client:
    """A session to a running sandbox, and its record."""

    def __init__(self, session: aiohttp.ClientSession, record: Path) -> None:
        self.session = session
        self.record = record

    async def call(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        async with self.session.request(method, path, json=body, headers=headers) as response:
            return response.status, await response.json()

    def effects(self) -> list[dict[str, Any]]:
        return read_lines(self.record / EFFECTS)

    def requests(self) -> list[dict[str, Any]]:
        return read_lines(self.record / REQUESTS)


@asynccontextmanager
async def sandbox(record: Path, seed: int = 1, **misbehaviour: Misbehaviour) -> AsyncIterator[Client]:
    """Serves the sandbox without latency in this process."""
    served = Sandbox(SandboxSettings(record, seed=seed, latency_scale=0.0, misbehaviour=misbehaviour))
    runner = web.AppRunner(served.application(), shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        async with connect(f"http://{host}:{port}", record) as client:
            yield client
    finally:
        await runner.cleanup()
        served.close()


@asynccontextmanager
async def connect(address: str, record: Path) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession(base_url=address, timeout=aiohttp.ClientTimeout(total=10)) as session:
        yield Client(session, record)


@asynccontextmanager
async def sandbox_process(record: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, Client]]:
    """Runs the sandbox in a process of its own, as the demo does."""
    command = ["-m", "examples.freight.sandbox", "--record", str(record), "--latency-scale", "0"]
    process = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        line = (await asyncio.wait_for(process.stdout.readline(), 30)).decode()
        match = re.fullmatch(r"listening on (http://\S+)\n", line)
        assert match, line
        async with connect(match[1], record) as client:
            yield process, client
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 10) == 0


async def test_a_repeated_key_answers_the_same_and_has_one_effect(tmp_path: Path) -> None:
    async with sandbox(tmp_path) as client:
        first = await client.call("POST", "/erp/orders", ORDER, KEY)
        reordered = dict(reversed(ORDER.items()))
        assert await client.call("POST", "/erp/orders", reordered, KEY) == first
        assert first[0] == 201
        assert [effect["reference"] for effect in client.effects()] == ["BKG-1"]
        assert [request["replayed"] for request in client.requests()] == [False, True]
        assert await client.call("GET", "/erp/orders/BKG-1") == (
            200,
            {**first[1], "reference": "BKG-1", "count": 1},
        )


async def test_a_key_with_another_body_is_refused_without_effect(tmp_path: Path) -> None:
    async with sandbox(tmp_path) as client:
        await client.call("POST", "/erp/orders", ORDER, KEY)
        status, answer = await client.call("POST", "/erp/orders", {**ORDER, "amount": 1}, KEY)
        assert (status, answer["reason"]) == (422, "IDEMPOTENCY_KEY_REUSED")
        assert len(client.effects()) == 1


async def test_without_a_key_every_request_has_its_effect(tmp_path: Path) -> None:
    async with sandbox(tmp_path) as client:
        for _ in range(2):
            await client.call("POST", "/erp/orders", ORDER)
        assert len(client.effects()) == 2
        assert (await client.call("GET", "/erp/orders/BKG-1"))[1]["count"] == 2


async def test_keys_are_separate_per_system(tmp_path: Path) -> None:
    booking = {
        "requestedEquipments": [{"units": 1}],
        "shipmentLocations": [{}],
        "references": [{"type": "CR", "value": "BKG-1"}],
        "serviceContractReference": "SC1",
    }
    async with sandbox(tmp_path) as client:
        first = await client.call("POST", "/carrier-a/v2/bookings", booking, KEY)
        second = await client.call("POST", "/carrier-b/v2/bookings", booking, KEY)
        assert (first[0], second[0]) == (202, 202)
        assert first[1]["carrierBookingRequestReference"] != second[1]["carrierBookingRequestReference"]
        assert (await client.call("GET", "/carrier-b/v2/bookings/BKG-1"))[1]["count"] == 1


async def test_concurrent_requests_with_one_key_have_one_effect(tmp_path: Path) -> None:
    async with sandbox(tmp_path) as client:
        answers = await asyncio.gather(*(client.call("POST", "/erp/orders", ORDER, KEY) for _ in range(20)))
        assert all(answer == answers[0] for answer in answers)
        assert len(client.effects()) == 1


async def test_record_and_deduplication_survive_kill_9(tmp_path: Path) -> None:
    async with sandbox_process(tmp_path) as (process, client):
        before = await client.call("POST", "/erp/orders", ORDER, KEY)
        process.kill()
        await process.wait()
    with (tmp_path / EFFECTS).open("ab") as file:
        file.write(b'{"effect_id": "torn')
    async with sandbox_process(tmp_path) as (_, client):
        assert await client.call("POST", "/erp/orders", ORDER, KEY) == before
        other = await client.call("POST", "/erp/orders", {**ORDER, "orderReference": "BKG-2"})
        assert other[1]["freightOrderNumber"] == "erp-00000002"
        assert [effect["reference"] for effect in client.effects()] == ["BKG-1", "BKG-2"]
        assert [request["sequence"] for request in client.requests()] == [1, 2, 3]


async def test_the_sandbox_ends_when_its_starter_is_gone(tmp_path: Path) -> None:
    command = ["-m", "examples.freight.sandbox", "--record", str(tmp_path), "--until-stdin-ends"]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, *command, stdin=pipe, stdout=pipe)
    assert process.stdin is not None
    assert process.stdout is not None
    assert (await asyncio.wait_for(process.stdout.readline(), 30)).startswith(b"listening on ")
    process.stdin.close()
    assert await asyncio.wait_for(process.wait(), 10) == 0


async def test_an_error_after_the_effect_is_healed_by_the_key(tmp_path: Path) -> None:
    async with sandbox(tmp_path) as client:
        fault = {"error_rate": 1, "after_effect_rate": 1, "error_status": 500}
        assert (await client.call("PUT", "/admin/systems/erp/misbehaviour", fault))[0] == 200
        assert (await client.call("POST", "/erp/orders", ORDER, KEY))[0] == 500
        assert (await client.call("DELETE", "/admin/systems/erp/misbehaviour"))[0] == 200
        status, answer = await client.call("POST", "/erp/orders", ORDER, KEY)
        assert (status, answer["freightOrderNumber"]) == (201, "erp-00000001")
        assert len(client.effects()) == 1


async def test_an_error_before_the_effect_has_none(tmp_path: Path) -> None:
    async with sandbox(tmp_path, erp=Misbehaviour(error_rate=1, after_effect_rate=0)) as client:
        assert (await client.call("POST", "/erp/orders", ORDER, KEY))[0] == 503
        assert client.effects() == []
        assert client.requests()[0]["verdict"] == "error_before_effect"


async def test_throttling_says_when_to_come_back_and_touches_only_its_system(tmp_path: Path) -> None:
    async with sandbox(tmp_path, erp=Misbehaviour(throttle_rate=1, retry_after=7)) as client:
        async with client.session.post("/erp/orders", json=ORDER) as response:
            assert (response.status, response.headers["Retry-After"]) == (429, "7")
        screening = {
            "documentReference": "D1",
            "shipmentReference": "S1",
            "parties": ["HUDSON WHOLESALE INC"],
        }
        assert (await client.call("POST", "/customs/screenings", screening))[1]["decision"] == "CLEARED"


async def test_a_hanging_request_is_on_record_before_it_ends(tmp_path: Path) -> None:
    async with sandbox(
        tmp_path, erp=Misbehaviour(hang_rate=1, hang_seconds=60, after_effect_rate=1)
    ) as client:
        hanging = asyncio.create_task(client.call("POST", "/erp/orders", ORDER, KEY))
        async with asyncio.timeout(5):
            while not client.requests():
                await client.call("GET", "/admin/health")
        assert not hanging.done()
        assert len(client.effects()) == 1
        hanging.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hanging


async def test_customs_refuses_documents_that_name_a_denied_party(tmp_path: Path) -> None:
    screening = {
        "documentReference": "D1",
        "shipmentReference": "S1",
        "parties": ["HUDSON WHOLESALE INC", DENIED[0]],
    }
    async with sandbox(tmp_path) as client:
        answer = (await client.call("POST", "/customs/screenings", screening))[1]
        assert (answer["decision"], answer["matches"]) == ("REJECTED", [DENIED[0]])


async def test_rates_follow_seed_and_route_and_differ_between_carriers(tmp_path: Path) -> None:
    path = "v1/rates?POL=NLRTM&POD=USNYC&ISOEquipmentCode=22G1&units=2"
    async with sandbox(tmp_path, seed=5) as client:
        rate = (await client.call("GET", f"/carrier-a/{path}"))[1]
        assert (await client.call("GET", f"/carrier-a/{path}"))[1] == rate
        assert (await client.call("GET", f"/carrier-b/{path}"))[1]["amount"] != rate["amount"]
        assert client.requests()[0]["query"]["POD"] == "USNYC"


async def test_bad_requests_are_refused_with_a_reason(tmp_path: Path) -> None:
    async with sandbox(tmp_path) as client:
        assert (await client.call("POST", "/erp/orders", {"orderReference": "X"}))[1][
            "reason"
        ] == "MISSING_FIELD"
        assert (await client.call("POST", "/erp/orders", []))[1]["reason"] == "INVALID_JSON"
        assert (await client.call("GET", "/erp/postings/NONE"))[0] == 404
        assert (await client.call("GET", "/carrier-a/v1/rates?POL=NLRTM"))[0] == 400
        assert (await client.call("PUT", "/admin/systems/erp/misbehaviour", {"error_rate": 2}))[0] == 400
        assert (await client.call("PUT", "/admin/systems/nobody/misbehaviour", {}))[0] == 404
        assert (await client.call("PUT", "/admin/latency", {"scale": "fast"}))[0] == 400
        assert client.effects() == []


def test_latency_has_the_median_and_the_99th_percentile_asked_for() -> None:
    random = Random(1)
    samples = sorted(Latency(0.3, 2.0).sample(random) for _ in range(20_000))
    assert median(samples) == pytest.approx(0.3, rel=0.05)
    assert samples[int(len(samples) * 0.99)] == pytest.approx(2.0, rel=0.1)
    assert Latency(0.3, 2.0, scale=0.0).sample(random) == 0.0


def test_faults_strike_at_the_rates_asked_for() -> None:
    random = Random(1)
    policy = Misbehaviour(error_rate=0.2, throttle_rate=0.1, hang_rate=0.05)
    verdicts = [decide(policy, random) for _ in range(20_000)]
    failed = sum(verdict in (Verdict.ERROR_BEFORE, Verdict.ERROR_AFTER) for verdict in verdicts)
    assert failed / 20_000 == pytest.approx(0.2, rel=0.1)
    assert verdicts.count(Verdict.THROTTLE) / 20_000 == pytest.approx(0.1, rel=0.1)
    assert verdicts.count(Verdict.ERROR_AFTER) / failed == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize(
    "values", [{"speed": 1}, {"error_rate": 1.5}, {"slow": -1}, {"error_status": 404}, {"slow": "x"}]
)
def test_nonsense_is_not_a_misbehaviour(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"unknown|share|at least 0|500 to 599"):
        Misbehaviour.parse(values)


def test_the_command_line_sets_the_misbehaviour_of_one_system(tmp_path: Path) -> None:
    settings = parse_settings(["--record", str(tmp_path), "--misbehave", "erp:error_rate=0.5,slow=3"])
    assert settings.misbehaviour == {"erp": Misbehaviour(error_rate=0.5, slow=3.0)}


def test_a_torn_line_is_cut_off_and_writing_goes_on(tmp_path: Path) -> None:
    (tmp_path / EFFECTS).write_bytes(b'{"a":1}\n{"b":')
    record = Record(tmp_path)
    record.effect({"c": 3})
    record.close()
    assert read_lines(tmp_path / EFFECTS) == [{"a": 1}, {"c": 3}]
    assert (tmp_path / REQUESTS).stat().st_size == 0

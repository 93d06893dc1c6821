"""What the three stores promise the services: who may do what, and that a death loses nothing."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import nats
import pytest
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, RedisError

from tests.integration.local.conftest import STORES
from workmesh.local import Happening, Stack


async def query(stack: Stack, statement: str, role: str = "workmesh") -> Any:
    connection = await asyncpg.connect(stack.database_url(role), timeout=5)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close(timeout=5)


async def test_the_database_is_durable_and_hidden(stores: Stack) -> None:
    for setting, value in {
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "jit": "off",
        "listen_addresses": "",
        "autovacuum": "on",
    }.items():
        assert await query(stores, f"SHOW {setting}") == value


async def test_the_ledgers_role_owns_the_database_but_is_no_superuser(stores: Stack) -> None:
    assert await query(stores, "SELECT current_user || ' ' || current_database()") == "workmesh workmesh"
    rights = (
        "SELECT (rolsuper, rolcreaterole, rolcreatedb, rolbypassrls) "
        "FROM pg_roles WHERE rolname = current_user"
    )
    assert await query(stores, rights) == (False, True, False, False)
    await query(stores, "CREATE SCHEMA mine")
    await query(stores, "DROP SCHEMA mine")


async def test_text_is_ordered_by_code_point_on_every_machine(stores: Stack) -> None:
    ordered = await query(stores, "SELECT string_agg(c, '' ORDER BY c) FROM unnest('{a,B,ä,b,A}'::text[]) c")
    assert ordered == "ABabä"


async def test_a_committed_row_survives_the_death_of_the_database(stores: Stack) -> None:
    await query(stores, "CREATE TABLE kept AS SELECT 42 AS answer")
    killed = stores.kill("postgres")
    await stores.wait_ready("postgres")
    assert stores.pid("postgres") not in (0, killed)
    assert await query(stores, "SELECT answer FROM kept") == 42
    await query(stores, "DROP TABLE kept")


async def test_a_stored_message_survives_the_death_of_the_server(stores: Stack) -> None:
    async with await nats.connect(stores.nats_url()) as connection:
        stream = connection.jetstream()
        await stream.add_stream(name="KEPT", subjects=["jobs.kept"])
        await stream.publish("jobs.kept", b"kept")
    stores.kill("nats")
    await stores.wait_ready("nats")
    async with await nats.connect(stores.nats_url()) as connection:
        assert (await connection.jetstream().get_msg("KEPT", 1)).data == b"kept"
        await connection.jetstream().delete_stream("KEPT")


async def test_the_gateway_hears_hints_and_can_say_nothing(stores: Stack) -> None:
    refused: asyncio.Queue[str] = asyncio.Queue()

    async def refuse(error: Exception) -> None:
        refused.put_nowait(str(error))

    scheduler = await nats.connect(stores.nats_url("scheduler"))
    gateway = await nats.connect(stores.nats_url("gateway"), error_cb=refuse)
    hints = await gateway.subscribe("hints.jobs")
    await gateway.flush()
    await scheduler.publish("hints.jobs", b"hint")
    assert (await hints.next_msg(timeout=5)).data == b"hint"
    await gateway.publish("jobs.default.batch.0", b"forged")
    assert "permissions violation" in (await asyncio.wait_for(refused.get(), 5)).lower()
    await gateway.subscribe("jobs.>")
    assert "permissions violation" in (await asyncio.wait_for(refused.get(), 5)).lower()
    await gateway.close()
    await scheduler.close()


async def test_the_scheduler_runs_its_queues_and_delays(stores: Stack) -> None:
    async with await nats.connect(stores.nats_url("scheduler")) as connection:
        stream = connection.jetstream()
        await stream.add_stream(
            name="JOBS",
            subjects=["jobs.>", "delay.>", "parked.>"],
            retention="workqueue",
            allow_msg_schedules=True,
            allow_msg_ttl=True,
        )
        await stream.publish("jobs.default.critical.0", b"now")
        puller = await stream.pull_subscribe("jobs.default.critical.>", durable="critical")
        (message,) = await puller.fetch(1, timeout=5)
        await message.ack_sync()
        assert (await stream.stream_info("JOBS")).state.messages == 0
        await stream.delete_stream("JOBS")


async def test_nobody_enters_without_a_password(stores: Stack) -> None:
    where = urlsplit(stores.nats_url())
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    await reader.readline()
    writer.write(b"CONNECT {}\r\nPING\r\n")
    assert b"Authorization Violation" in await asyncio.wait_for(reader.readline(), 5)
    writer.close()
    await writer.wait_closed()
    anonymous = Redis(unix_socket_path=urlsplit(stores.valkey_url()).path)
    with pytest.raises(RedisError, match="authenticated"):
        await anonymous.ping()
    await anonymous.aclose()


async def test_each_service_has_its_own_keys_in_the_cache(stores: Stack) -> None:
    gateway = Redis.from_url(stores.valkey_url("gateway"))
    await gateway.set("gateway:limit", "1")
    with pytest.raises(NoPermissionError):
        await gateway.get("toolhub:circuit")
    with pytest.raises(NoPermissionError):
        await gateway.flushall()
    assert await gateway.get("gateway:limit") == b"1"
    await gateway.aclose()


@pytest.mark.parametrize("name", STORES)
async def test_a_killed_store_comes_back(stores: Stack, name: str) -> None:
    before = stores.restarts(name)
    killed = stores.kill(name)
    await stores.wait_ready(name)
    assert stores.pid(name) != killed
    assert stores.restarts(name) > before
    exits = stores.events(Happening.EXITED, name)
    assert exits[-1].detail
    assert [event for event in exits if event.pid == killed]


async def test_a_stopped_store_stays_down_until_it_is_started(stores: Stack) -> None:
    await stores.stop_process("valkey")
    assert stores.pid("valkey") == 0
    assert "valkey" not in stores.pids()
    await stores.start_process("valkey")
    client = Redis.from_url(stores.valkey_url())
    assert await client.ping()
    await client.aclose()


async def test_a_frozen_store_is_not_taken_for_dead(stores: Stack) -> None:
    before = stores.restarts("valkey")
    frozen = stores.pause("valkey")
    client = Redis.from_url(stores.valkey_url(), socket_timeout=0.3)
    with pytest.raises(RedisError, match=r"(?i)timeout"):
        await client.ping()
    assert stores.resume("valkey") == frozen
    assert await client.ping()
    await client.aclose()
    assert (stores.pid("valkey"), stores.restarts("valkey")) == (frozen, before)


async def test_the_processes_of_the_database_are_counted(stores: Stack) -> None:
    pids = stores.pids()
    assert set(pids) == set(STORES)
    assert pids["postgres"][0] == stores.pid("postgres")
    assert len(pids["postgres"]) > 3

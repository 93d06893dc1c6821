"""The ledger process: composition only."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial

import asyncpg

from services.ledger.audit import Auditor
from services.ledger.audit_service import AuditService
from services.ledger.block_listener import BlockListener
from services.ledger.block_reader import BlockReader
from services.ledger.catalog import Catalog
from services.ledger.config import LedgerConfig
from services.ledger.database import Role, connect, open_pool
from services.ledger.definition_reads import DefinitionReads
from services.ledger.events import service_actor
from services.ledger.feed import Feed
from services.ledger.feed_service import FeedService
from services.ledger.follower import FeedPolicy
from services.ledger.items import Item, Outcome
from services.ledger.jobs import Rules
from services.ledger.life import Life
from services.ledger.log_export import Exporter
from services.ledger.notifier import Notifier
from services.ledger.read_pool import ReadPool
from services.ledger.read_service import ReadService
from services.ledger.reads import JobReads
from services.ledger.service import MAX_ITEMS, WriteService
from services.ledger.session import Session
from services.ledger.singletons import Singletons
from services.ledger.state_reads import StateReads
from services.ledger.token_issuer import TokenIssuer
from services.ledger.vitals import Vitals
from services.ledger.writer import CommitListener, Writer
from services.ledger.writers import Writers
from workmesh import keys, log, metrics, telemetry
from workmesh.batching import Batcher
from workmesh.clock import SystemClock, micros
from workmesh.config import parse_command_line
from workmesh.ledger.v1.audit_service_pb2_grpc import add_AuditServiceServicer_to_server
from workmesh.ledger.v1.block_pb2 import Block
from workmesh.ledger.v1.feed_service_pb2_grpc import add_FeedServiceServicer_to_server
from workmesh.ledger.v1.ledger_read_service_pb2_grpc import add_LedgerReadServiceServicer_to_server
from workmesh.ledger.v1.ledger_write_service_pb2_grpc import add_LedgerWriteServiceServicer_to_server
from workmesh.rpc.server import MeshServer, ServerSettings, run, serve_until_signal
from workmesh.tokens import TokenSigner

SERVICE = "ledger"
PACKAGE = "workmesh.ledger.v1"


class Announcer:
    """Hands each committed block to the feed of this process and has the others told."""

    def __init__(self) -> None:
        self.listeners: Sequence[CommitListener] = ()

    def committed(self, block: Block) -> None:
        """Pass a block on."""
        for listener in self.listeners:
            listener.committed(block)


async def main(config: LedgerConfig) -> None:
    """Serve until SIGTERM."""
    log.configure(SERVICE, config.instance, config.log_level)
    keys.make_keys(config.keys_directory)
    signer = TokenSigner(keys.load_private_key(config.keys_directory, keys.TOKENS))
    async with AsyncExitStack() as stack:
        stack.callback(telemetry.configure(SERVICE, config.instance, config.otlp_endpoint).close)
        stack.callback(metrics.serve_metrics(config.metrics_port, config.host))
        await _serve(config, signer, stack)


@dataclass(frozen=True, slots=True)
class Pools:
    """Connections by the rights they have."""

    writing: asyncpg.Pool
    reading: ReadPool
    feeding: ReadPool
    auditing: ReadPool


async def _open_pools(url: str, application: str, read_connections: int, stack: AsyncExitStack) -> Pools:
    async def pool(role: Role, size: int) -> asyncpg.Pool:
        opened = await open_pool(url, role, application, size)
        stack.callback(opened.terminate)
        return opened

    return Pools(
        await pool(Role.WRITER, 4),
        ReadPool(await pool(Role.READER, read_connections)),
        ReadPool(await pool(Role.FEED, 2)),
        ReadPool(await pool(Role.AUDITOR, 2)),
    )


def _rules(config: LedgerConfig) -> Rules:
    return Rules(
        lease_micros=micros(config.lease_seconds),
        allowance_micros=micros(config.clock_allowance_seconds),
        ledger=service_actor(SERVICE, config.instance),
        draw=random.random,
    )


async def _serve(config: LedgerConfig, signer: TokenSigner, stack: AsyncExitStack) -> None:
    url, application, rules = config.database_url, f"workmesh-{config.instance}"[:63], _rules(config)
    pools = await _open_pools(url, application, config.read_connections, stack)
    log_reader = BlockReader(pools.feeding.fetch)
    listener = BlockListener(partial(connect, url, Role.FEED, application))
    feed = Feed(log_reader, listener, FeedPolicy(), instance=config.instance)
    announcer = Announcer()
    open_session = partial(Session.open, url, application)
    writers = Writers(
        [Writer(open_session, rules, announcer) for _ in range(config.writers)],
        patience=config.patience_seconds,
    )
    notifier = Notifier(pools.writing, config.instance, lambda: writers.backends)
    announcer.listeners = (feed, notifier)
    batcher: Batcher[Item, Outcome] = Batcher(
        writers.write, name="ledger_writes", max_items=MAX_ITEMS, size_of=_size_of, flights=config.writers
    )
    metrics.watch_batcher(SERVICE, batcher.name, batcher.stats)
    catalog = Catalog(pools.writing)
    issuer = TokenIssuer(signer, catalog)
    singletons = Singletons(pools.writing)
    write_service = WriteService(batcher, catalog, issuer, singletons, rules.lease_micros)
    jobs = JobReads(pools.reading, clock_allowance_micros=rules.allowance_micros)
    read_service = ReadService(jobs, DefinitionReads(pools.reading), StateReads(pools.reading))
    audit_service = AuditService(Auditor(pools.auditing), Exporter(pools.auditing, SystemClock()))
    server = MeshServer(ServerSettings(SERVICE, config.host, config.port, config.grace_seconds))
    server.add(add_LedgerWriteServiceServicer_to_server, write_service, f"{PACKAGE}.LedgerWriteService")
    server.add(add_LedgerReadServiceServicer_to_server, read_service, f"{PACKAGE}.LedgerReadService")
    server.add(add_FeedServiceServicer_to_server, FeedService(feed, log_reader), f"{PACKAGE}.FeedService")
    server.add(add_AuditServiceServicer_to_server, audit_service, f"{PACKAGE}.AuditService")
    vitals = Vitals(pools.writing, lambda: writers.owning, server.set_serving)
    life = Life(url, server, feed, notifier, writers, batcher, vitals)
    try:
        await serve_until_signal(server, ready=life.begin, drain=life.drain)
    finally:
        await life.end()
        await read_service.close()


def _size_of(item: Item) -> int:
    return item.size


def settings() -> LedgerConfig:
    """Return the settings from the environment, the instance named."""
    config = parse_command_line(LedgerConfig, SERVICE)
    return replace(config, instance=config.instance or f"{socket.gethostname()}-{os.getpid()}")


if __name__ == "__main__":
    config = settings()
    run(lambda: main(config))

"""How the process begins and ends."""

from __future__ import annotations

import asyncio

from services.ledger import migrations
from services.ledger.feed import Feed
from services.ledger.items import Item, Outcome
from services.ledger.notifier import Notifier
from services.ledger.vitals import Vitals
from services.ledger.writers import Writers
from workmesh.batching import Batcher
from workmesh.rpc.server import MeshServer


class Life:
    """The order in which the parts of the process begin and end."""

    def __init__(
        self,
        url: str,
        server: MeshServer,
        feed: Feed,
        notifier: Notifier,
        writers: Writers,
        batcher: Batcher[Item, Outcome],
        vitals: Vitals,
    ) -> None:
        self._url = url
        self._server = server
        self._feed = feed
        self._notifier = notifier
        self._writers = writers
        self._batcher = batcher
        self._vitals = vitals
        self._tasks: list[asyncio.Task[None]] = []

    async def begin(self) -> None:
        """Migrate, know all heads, own chains; for as long as it takes."""
        await migrations.migrate_when_up(self._url)
        self._tasks.append(await self._feed.start())
        self._tasks.append(asyncio.create_task(self._notifier.run(), name="notifier"))
        await self._writers.start(self._vitals.look)
        self._tasks.append(asyncio.create_task(self._vitals.run(), name="vitals"))
        for task in self._tasks:
            self._server.watch(task)

    async def drain(self) -> None:
        """Say no more about health, send followers elsewhere, answer what was asked."""
        if self._tasks:
            self._tasks.pop().cancel()
        await self._feed.close()
        await self._batcher.close()

    async def end(self) -> None:
        """Stop what runs and give the chains back."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._writers.close()

"""One pool's queue: takes as many messages as there are free slots, most urgent lane first, and no more."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from services.scheduler.bus import Bus
from services.scheduler.figures import LATE, OFFERS
from services.scheduler.instances import Instances
from services.scheduler.lanes import LanePolicy, Turns, apportion
from services.scheduler.messages import Message
from services.scheduler.puller import LanePuller, Pull, PullTiming
from services.scheduler.subjects import LANE_NAMES, LANES
from workmesh.clock import Clock

WAIT_CREDIT: Final = 16
"""Messages that an empty lane may send by itself. Those that come when no slot is left are handed back."""

NAK: Final = b"-NAK"


class PoolQueue:
    """Matches a pool's messages with its instances' free slots, once a loop turn.

    `offer` takes a message and tells whether an instance took it; one that it leaves has been dealt with.
    `admit` sees each arriving message and tells whether it needs an offer at all.
    """

    def __init__(
        self,
        pool: str,
        bus: Bus,
        clock: Clock,
        instances: Instances,
        policy: LanePolicy,
        timing: PullTiming,
        *,
        admit: Callable[[Message], bool],
        offer: Callable[[Message, float], bool],
        broken: Callable[[str], None],
    ) -> None:
        self.pool = pool
        self._bus = bus
        self._clock = clock
        self._instances = instances
        self._policy = policy
        self._admit = admit
        self._offer = offer
        self._turns = Turns()
        self._arrived: list[deque[Message]] = [deque() for _ in LANES]
        self._again: list[deque[Message]] = [deque() for _ in LANES]
        self._waking = False
        self._offers = [OFFERS.labels(pool, name) for name in LANE_NAMES]
        self.lanes = [
            LanePuller(
                bus,
                pool,
                lane,
                clock,
                timing,
                arrived=self._take,
                settled=self.wake,
                broken=lambda: broken(pool),
            )
            for lane in range(len(LANES))
        ]

    async def open(self) -> None:
        """Listen for messages."""
        for lane in self.lanes:
            await self._bus.listen(lane.name, lane.handle)

    def use(self, generation: str) -> None:
        """Pull from a generation of the stream; what is of another is dropped: it is in this one too."""
        for queue in (*self._arrived, *self._again):
            queue.clear()
        for lane in self.lanes:
            lane.use(generation)
        self.wake()

    def repair(self, generation: str) -> None:
        """Pull again from lanes whose consumer was missing."""
        for lane in self.lanes:
            if not lane.usable:
                lane.use(generation)
        self.wake()

    def disconnected(self) -> None:
        """Count on no outstanding pull."""
        for lane in self.lanes:
            lane.reset()

    def check(self, now: float) -> None:
        """Look after lost pulls."""
        for lane in self.lanes:
            lane.check(now)
        self.wake()

    def offer_again(self, message: Message) -> None:
        """Offer a message whose lease is lost before what has not been offered yet."""
        self._again[message.lane].append(message)
        self.wake()

    def held(self) -> Iterator[Message]:
        """Return the messages that wait here for a slot."""
        for queue in (*self._again, *self._arrived):
            yield from queue

    def wake(self) -> None:
        """Match at the end of this loop turn."""
        if not self._waking:
            self._waking = True
            asyncio.get_running_loop().call_soon(self.fill)

    def fill(self) -> None:
        """Offer what is here, hand back what came too late, and pull for the slots that stay free."""
        self._waking = False
        now = self._clock.monotonic()
        free = self._serve(self._instances.free_slots(self.pool, now), now)
        if free == 0:
            self._hand_back()
        if self._bus.connected:
            self._pull(free)

    async def close(self) -> None:
        """Pull no more and hand back what nobody was offered."""
        for lane in self.lanes:
            lane.use("")
        # In this order: a message that is still on its way would otherwise wait for its redelivery.
        for lane in self.lanes:
            await self._bus.unlisten(lane.name)
        for message in self.held():
            self._bus.owe(message.reply, NAK)

    def _take(self, message: Message) -> None:
        if self._admit(message):
            self._arrived[message.lane].append(message)
            if not self._waking:
                self.wake()

    def _serve(self, free: int, now: float) -> int:
        """Offer in the order of the lanes and return the slots left.

        A lane waits while a more urgent one has a probe under way, for the fraction of a millisecond that its
        answer takes: what it brings goes first.
        """
        for puller, again, arrived in zip(self.lanes, self._again, self._arrived, strict=True):
            offered = 0
            for queue in (again, arrived):
                # A message that an ending stream refuses comes back to `again`: it waits for the next turn.
                for _ in range(len(queue)):
                    if offered == free:
                        break
                    offered += self._offer(queue.popleft(), now)
            if offered:
                free -= offered
                self._offers[puller.lane].inc(offered)
            if puller.pull is Pull.PROBE:
                break
        return free

    def _hand_back(self) -> None:
        for lane, queue in enumerate(self._arrived):
            if queue:
                LATE.labels(self.pool, LANE_NAMES[lane]).inc(len(queue))
                self.lanes[lane].empty = False
            for message in queue:
                self._bus.owe(message.reply, NAK)
            queue.clear()
        if not self._instances.serves(self.pool):
            for queue in self._again:
                for message in queue:
                    self._bus.owe(message.reply, NAK)
                queue.clear()

    def _pull(self, free: int) -> None:
        lanes = self.lanes
        if free <= 0:
            for lane in lanes:
                lane.empty = False
            return
        target = min(free, WAIT_CREDIT)
        for lane in lanes:
            idle_and_empty = lane.usable and lane.pull is Pull.NONE and lane.empty
            if idle_and_empty or (lane.pull is Pull.WAIT and lane.credit * 2 <= target):
                lane.wait(target - lane.credit)
        if any(lane.pull is Pull.PROBE for lane in lanes):
            return
        counts, self._turns = apportion(
            self._policy, self._turns, free, [lane.usable and lane.pull is Pull.NONE for lane in lanes]
        )
        for lane, count in zip(lanes, counts, strict=True):
            if count:
                lane.probe(count)

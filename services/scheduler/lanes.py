"""Which lane a pool's next turn goes to.

Strict order (critical, standard, batch), except that a waiting lane with a least share is owed a fraction of
each turn that others get; once it is owed a whole turn, it gets the next one. So a waiting lane with share s
is served at least once in `longest_wait` turns, and nothing depends on time or chance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from services.scheduler.subjects import LANES

_WHOLE = 1.0 - 1e-9


@dataclass(frozen=True, slots=True)
class LanePolicy:
    """Least share of the turns, 0 to below 1, per lane in the order of LANES; together at most 0.9."""

    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.shares) != len(LANES) or any(not 0.0 <= share < 1.0 for share in self.shares):
            raise ValueError("there is one share per lane, 0 to below 1")
        if sum(self.shares) > 0.9:
            raise ValueError("the shares together leave no order: at most 0.9")

    def longest_wait(self, lane: int) -> int | None:
        """Return the turns within which a waiting lane is served at least once; None if it has no bound."""
        share = self.shares[lane]
        if share == 0.0:
            return None
        # Another lane may be owed its turn at the same moment and goes first.
        return math.ceil(1.0 / share) + sum(other > 0.0 for other in self.shares)


@dataclass(frozen=True, slots=True)
class Turns:
    """What each lane is owed, in turns."""

    owed: tuple[float, ...] = (0.0,) * len(LANES)


def next_turn(policy: LanePolicy, turns: Turns, waiting: Sequence[bool]) -> tuple[int, Turns]:
    """Return the lane of the next turn and what is owed after it; at least one lane waits.

    A lane that does not wait is owed nothing: shares are not saved up.
    """
    owed = [
        due + share if waits else 0.0
        for due, share, waits in zip(turns.owed, policy.shares, waiting, strict=True)
    ]
    strict = list(waiting).index(True)
    late = [lane for lane in range(strict + 1, len(owed)) if owed[lane] >= _WHOLE]
    lane = max(late, key=lambda each: (owed[each], -each)) if late else strict
    owed[lane] = max(0.0, owed[lane] - 1.0) if late else 0.0
    return lane, Turns(tuple(owed))


def apportion(
    policy: LanePolicy, turns: Turns, slots: int, waiting: Sequence[bool]
) -> tuple[list[int], Turns]:
    """Return how many of the slots each lane gets if every waiting lane has enough, and what is owed then."""
    counts = [0] * len(LANES)
    if sum(waiting) == 1:
        counts[list(waiting).index(True)] = slots
        return counts, Turns()
    if any(waiting):
        for _ in range(slots):
            lane, turns = next_turn(policy, turns, waiting)
            counts[lane] += 1
    return counts, turns

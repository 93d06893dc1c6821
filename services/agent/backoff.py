"""How long to wait before something is tried again."""

from __future__ import annotations

from typing import Final

_FIRST: Final = 0.05
_MOST: Final = 1.0


def pause(tries: int, draw: float, retry_after: float | None = None) -> float:
    """Return the seconds to wait after `tries` failures, at least what the other side asked for.

    Full jitter over a doubling bound; `draw` is uniform in [0, 1).
    """
    bound = min(_MOST, _FIRST * 2.0 ** min(tries, 10))
    return max(bound * draw, min(retry_after or 0.0, 10.0 * _MOST))

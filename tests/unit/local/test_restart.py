from __future__ import annotations

import pytest

from workmesh.local.restart import RestartPolicy

POLICY = RestartPolicy(first=0.1, multiplier=2.0, longest=1.0, healthy_after=10.0)


@pytest.mark.parametrize(
    ("failures", "delay"), [(0, 0.1), (1, 0.1), (2, 0.2), (3, 0.4), (4, 0.8), (5, 1.0), (10_000, 1.0)]
)
def test_the_delay_doubles_up_to_its_bound(failures: int, delay: float) -> None:
    assert POLICY.delay(failures) == pytest.approx(delay)


@pytest.mark.parametrize(
    ("before", "ready_for", "after"), [(0, None, 1), (4, None, 5), (4, 9.9, 5), (4, 10.0, 1), (0, 100.0, 1)]
)
def test_a_healthy_while_is_a_new_beginning(before: int, ready_for: float | None, after: int) -> None:
    assert POLICY.failures(before, ready_for) == after

"""All tools by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from services.toolhub.drivers import Driver
from services.toolhub.integrations import Effect, Integration, Kind, Operation
from services.toolhub.links import Link
from services.toolhub.metrics import RUNNING, WAITING
from services.toolhub.noop import noop_result
from workmesh import errors
from workmesh.clock import Clock


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """What a tool's name leads to. `ready` is the result of one that needs nobody to be asked."""

    link: Link
    operation: Operation
    ready: bytes | None

    @property
    def name(self) -> str:
        """The tool: `integration.operation`."""
        return f"{self.link.integration.name}.{self.operation.name}"


class Catalogue:
    """The integrations of this process, with their connections."""

    def __init__(
        self,
        integrations: Mapping[str, Integration],
        connect: Callable[[Integration], Driver],
        clock: Clock,
        draw: Callable[[], float],
    ) -> None:
        self._links = [Link(each, connect(each), clock, draw) for each in integrations.values()]
        self._targets: dict[str, Target] = {}
        for link in self._links:
            for operation in link.integration.operations.values():
                target = Target(link, operation, _ready(link.integration, operation))
                self._targets[target.name] = target
            self._observe(link)

    @property
    def has_unsafe(self) -> bool:
        """Whether any operation needs its effects claimed."""
        return any(each.operation.effect is Effect.UNSAFE for each in self._targets.values())

    def find(self, tool: str) -> Target:
        """Return what a tool's name leads to; NOT_FOUND TOOL_NOT_FOUND."""
        target = self._targets.get(tool)
        if target is None:
            raise errors.not_found("tool", tool)
        return target

    def targets(self, integration: str = "") -> Iterable[Target]:
        """Return the tools by name, of one integration or of all."""
        for name in sorted(self._targets):
            if not integration or name.partition(".")[0] == integration:
                yield self._targets[name]

    async def close(self) -> None:
        """Close all connections."""
        for link in self._links:
            await link.close()

    def _observe(self, link: Link) -> None:
        RUNNING.labels(link.integration.name).set_function(lambda: link.bulkhead.running)
        WAITING.labels(link.integration.name).set_function(lambda: link.bulkhead.waiting)


def _ready(integration: Integration, operation: Operation) -> bytes | None:
    if integration.kind is Kind.NOOP and operation.effect is not Effect.UNSAFE:
        return noop_result(operation)
    return None

"""Which bodies the events of a page vouch for, and which of those are no longer what was written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from services.ledger.read_pool import Fetch
from workmesh.common.v1.definition_pb2 import AgentDefinition
from workmesh.job_order import Place
from workmesh.ledger.v1.event_pb2 import Event, StepDigest

_STEPPED: Final = frozenset(
    {
        "steps_recorded",
        "attempt_failed",
        "attempt_returned",
        "job_succeeded",
        "job_failed",
        "job_dead_lettered",
    }
)


class BodyDigests:
    """Gathers digests event by event; bodies that were erased or dropped since are not missed."""

    def __init__(self) -> None:
        self._places: dict[str, list[Place]] = {}
        self._digests: dict[str, list[tuple[Any, ...]]] = {}
        self._definitions: list[tuple[Place, AgentDefinition]] = []

    def add(self, event: Event, place: Place) -> None:
        """Take the digests of an event."""
        kind = event.WhichOneof("payload")
        if kind == "job_created":
            digest = event.job_created.input_digest
            self._expect("wrong_bodies", place, (event.job_id, "input", digest))
        elif kind == "state_written":
            written = event.state_written
            document = (event.client_id, written.collection, written.key, written.version)
            self._expect("wrong_states", place, (*document, written.body_digest))
        elif kind == "effect_settled" and event.effect_settled.done:
            settled = event.effect_settled
            effect = (event.job_id, settled.series, settled.step)
            self._expect("wrong_effects", place, (*effect, settled.result_digest))
        elif kind == "definition_applied":
            self._definitions.append((place, event.definition_applied.definition))
        elif kind in _STEPPED:
            self._add_attempt(event, getattr(event, kind), place)

    def _add_attempt(self, event: Event, payload: Any, place: Place) -> None:
        if event.HasField("job_succeeded"):
            digest = event.job_succeeded.output_digest
            self._expect("wrong_bodies", place, (event.job_id, "output", digest))
        steps: Iterable[StepDigest] = payload.steps
        for step in steps:
            digests = (step.result_digest, step.arguments_digest)
            self._expect("wrong_steps", place, (event.job_id, payload.epoch, step.step, *digests))

    def _expect(self, statement: str, place: Place, digest: tuple[Any, ...]) -> None:
        self._places.setdefault(statement, []).append(place)
        self._digests.setdefault(statement, []).append(digest)

    async def misfits(self, fetch: Fetch, sql: Mapping[str, str], seconds: float) -> list[tuple[Place, str]]:
        """Return the events whose bodies differ from what they vouch for, and what differs."""
        found = []
        for statement, digests in self._digests.items():
            columns = zip(*digests, strict=True)
            for (place,) in await fetch(sql[statement], *columns, seconds=seconds):
                about = _describe(statement, digests[place - 1])
                found.append((self._places[statement][place - 1], about))
        for place, definition in self._definitions:
            name = (definition.agent, definition.version)
            for (body,) in await fetch(sql["definition"], *name, seconds=seconds):
                if AgentDefinition.FromString(body) != definition:
                    found.append((place, f"definition {name[0]} version {name[1]} was changed"))
        return found


def _describe(statement: str, digest: tuple[Any, ...]) -> str:
    if statement == "wrong_bodies":
        return f"the {digest[1]} of job {digest[0]} was changed"
    if statement == "wrong_states":
        return f"version {digest[3]} of document {digest[1]}/{digest[2]} of {digest[0]} was changed"
    if statement == "wrong_effects":
        return f"the result of effect {digest[2]} of job {digest[0]} was changed"
    return f"step {digest[2]} of job {digest[0]} was changed"

"""The way in: submissions checked, turned into jobs and created, singly or by the thousand."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat

from google.rpc.status_pb2 import Status

from services.gateway.definitions import Definition, Definitions
from services.gateway.identity import Caller
from services.gateway.ledger import Ledger
from services.gateway.submissions import Submission, accept, check_form
from workmesh import errors
from workmesh.clock import Clock
from workmesh.errors import MeshError
from workmesh.gateway.v1.job_pb2 import JobSubmission, SubmissionResult
from workmesh.ledger.v1.ledger_write_service_pb2 import CreateJobResult, NewJob


@dataclass(frozen=True, slots=True)
class Refused:
    """A submission that goes no further."""

    status: Status


class Intake:
    """Checks submissions and creates their jobs."""

    def __init__(self, ledger: Ledger, definitions: Definitions, clock: Clock) -> None:
        self._ledger = ledger
        self._definitions = definitions
        self._clock = clock

    async def check(self, proto: JobSubmission, caller: Caller, field: str) -> NewJob:
        """Return the job that a submission asks for; MeshError if it asks wrongly."""
        submission = check_form(proto, self._now(), field)
        definition = await self._definitions.get(proto.agent, proto.version)
        return accept(submission, definition, caller, field)

    async def check_all(
        self, protos: Sequence[JobSubmission], caller: Caller, field: str
    ) -> list[NewJob | Refused]:
        """Check many: each becomes a job or a refusal, in order; unknown agents are asked for together."""
        now = self._now()
        forms: list[Submission | Refused] = []
        for index, proto in enumerate(protos):
            try:
                forms.append(check_form(proto, now, f"{field}[{index}]"))
            except MeshError as error:
                forms.append(Refused(errors.to_status(error)))
        definitions = await self._resolve(forms)
        return [
            form if isinstance(form, Refused) else _accept(form, definitions, caller, f"{field}[{index}]")
            for index, form in enumerate(forms)
        ]

    async def create(self, checked: Sequence[NewJob | Refused]) -> list[CreateJobResult | Refused]:
        """Create the jobs among what was checked; one outcome per entry, in order.

        A ledger that does not answer refuses the jobs one by one: their client may send them again.
        """
        jobs = [each for each in checked if isinstance(each, NewJob)]
        created: Iterator[CreateJobResult | Refused]
        try:
            created = iter(await self._ledger.create_jobs(jobs)) if jobs else iter(())
        except MeshError as error:
            created = repeat(Refused(errors.to_status(error)))
        return [each if isinstance(each, Refused) else next(created) for each in checked]

    async def _resolve(
        self, forms: Sequence[Submission | Refused]
    ) -> dict[tuple[str, int], Definition | MeshError]:
        """Return the definition of every agent and version named, or why it cannot be had."""
        resolved: dict[tuple[str, int], Definition | MeshError] = {}
        missing: list[tuple[str, int]] = []
        for key in {(each.proto.agent, each.proto.version) for each in forms if isinstance(each, Submission)}:
            known = self._definitions.cached(*key)
            if known is None:
                missing.append(key)
            else:
                resolved[key] = known
        asked = (self._definitions.get(*key) for key in missing)
        for key, outcome in zip(missing, await asyncio.gather(*asked, return_exceptions=True), strict=True):
            if not isinstance(outcome, Definition | MeshError):
                raise outcome
            resolved[key] = outcome
        return resolved

    def _now(self) -> int:
        return int(self._clock.time() * 1_000_000)


def _accept(
    form: Submission,
    definitions: Mapping[tuple[str, int], Definition | MeshError],
    caller: Caller,
    field: str,
) -> NewJob | Refused:
    definition = definitions[form.proto.agent, form.proto.version]
    try:
        if isinstance(definition, MeshError):
            raise definition.copy()
        return accept(form, definition, caller, field)
    except MeshError as error:
        return Refused(errors.to_status(error))


def to_result(outcome: CreateJobResult | Refused, request_id: str) -> SubmissionResult:
    """Return the public form of an outcome."""
    if isinstance(outcome, Refused):
        return SubmissionResult(status=outcome.status, request_id=request_id)
    if not errors.is_ok(outcome.status):
        return SubmissionResult(status=outcome.status, request_id=request_id)
    return SubmissionResult(job_id=outcome.job_id, existing=outcome.existing, request_id=request_id)

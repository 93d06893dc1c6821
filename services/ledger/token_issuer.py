"""Tokens for what was granted: one signature for all jobs of a response."""

from __future__ import annotations

from collections.abc import Sequence

from services.ledger.catalog import Catalog, Ref
from services.ledger.jobs import JobRow
from workmesh.common.v1.token_pb2 import Grant, JobToken, TokenClaims, ToolSet
from workmesh.ids import uuid7
from workmesh.tokens import TokenSigner


class TokenIssuer:
    """Signs grants with the tools of the definitions that the jobs are pinned to."""

    def __init__(self, signer: TokenSigner, catalog: Catalog) -> None:
        self._signer = signer
        self._catalog = catalog

    async def issue(self, jobs: Sequence[JobRow], now_micros: int) -> JobToken | None:
        """Return the token of running jobs, None without jobs; it ends with the first of their leases."""
        if not jobs:
            return None
        definitions = await self._catalog.find((job.agent, job.version) for job in jobs)
        places: dict[Ref, int] = {ref: place for place, ref in enumerate(definitions)}
        claims = TokenClaims(
            token_id=uuid7(),
            issue_time_micros=now_micros,
            expire_time_micros=min(job.lease_expire_micros for job in jobs),
            tool_sets=[ToolSet(tools=each.tools) for each in definitions.values()],
            grants=[
                Grant(
                    job_id=job.job_id,
                    epoch=job.epoch,
                    series=job.series,
                    client_id=job.client_id,
                    tool_set=places[job.agent, job.version],
                )
                for job in jobs
            ],
        )
        return self._signer.sign(claims)

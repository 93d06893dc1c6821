"""Proves or refutes that a run did everything once: from the record, the exported log and what was expected.

`python -m examples.freight.checker --record DIR --log FILE --expected FILE` prints what it found and
exits with 1 if that is anything.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from examples.freight.evidence import JobTrace, Log, Witness, read_log, read_witness
from examples.freight.generator import Case, load_cases

#: A booking's median duration may be at most this share of a document's, once documents had to queue.
WELL_BELOW: Final = 0.5
#: With fewer documents hardly any has to queue, and medians say nothing.
ENOUGH_DOCUMENTS: Final = 100

_KINDS: Final = {"booking": ("order", "booking"), "document": ("posting", "screening")}


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it must be: the rule it breaks, what it is about, one sentence."""

    rule: str
    subject: str
    message: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.subject}: {self.message}"


def check(cases: Sequence[Case], witness: Witness, log: Log) -> list[Finding]:
    """Returns everything that contradicts the promise of one outcome and one effect a job."""
    jobs: dict[str, list[JobTrace]] = defaultdict(list)
    for job in log.jobs:
        jobs[job.reference].append(job)
    findings = list(_check_log(log))
    for case in cases:
        findings.extend(_check_job(case, jobs.get(case.reference, [])))
        findings.extend(_check_effects(case, witness))
    findings.extend(_check_strangers(cases, jobs, witness))
    findings.extend(_check_requests(witness))
    findings.extend(_check_urgency(cases, jobs))
    return findings


def expected_effects(case: Case) -> dict[str, int]:
    """Returns how many effects of each kind a case must have in the systems."""
    first, second = _KINDS[case.agent]
    screened = 1 if case.succeeds or case.reason == "CUSTOMS_REJECTED" else 0
    return {first: 1 if case.succeeds else 0, second: screened}


def _check_log(log: Log) -> Iterator[Finding]:
    for damage in log.verdict.damage:
        yield Finding("log_damaged", "export", damage)
    for fault in log.verdict.faults:
        yield Finding("chain_broken", f"chain {fault.chain} height {fault.height}", fault.description)


def _check_job(case: Case, jobs: Sequence[JobTrace]) -> Iterator[Finding]:
    if not jobs:
        yield Finding("job_missing", case.reference, "the log has no job for it")
        return
    if len(jobs) > 1:
        yield Finding("job_doubled", case.reference, f"the log has {len(jobs)} jobs for it")
    for job in jobs:
        if len(job.ends) != 1:
            text = f"job {job.job_id} has {len(job.ends)} terminal events"
            yield Finding("not_one_outcome", case.reference, text)
            continue
        state, reason = job.ends[0].state, job.ends[0].reason
        wanted = "SUCCEEDED" if case.succeeds else "FAILED"
        if (state, reason) != (wanted, case.reason):
            text = f"job {job.job_id} is {state} {reason}, expected {wanted} {case.reason}"
            yield Finding("wrong_outcome", case.reference, " ".join(text.split()))


def _check_effects(case: Case, witness: Witness) -> Iterator[Finding]:
    found = {kind: witness.effects.get((kind, case.reference), []) for kind in expected_effects(case)}
    for kind, wanted in expected_effects(case).items():
        count = len(found[kind])
        if count < wanted:
            yield Finding("effect_missing", case.reference, f"no {kind} was made")
        elif count > wanted:
            ids = ", ".join(effect["effect_id"] for effect in found[kind])
            rule = "effect_doubled" if wanted else "effect_of_faulty"
            yield Finding(rule, case.reference, f"{count} of kind {kind} instead of {wanted}: {ids}")
    if case.agent == "booking" and len(found["order"]) == len(found["booking"]) == 1:
        booked = found["booking"][0]["response"]["carrierBookingRequestReference"]
        ordered = found["order"][0]["body"]["carrierBookingRequestReference"]
        if booked != ordered:
            text = f"the carrier confirmed {booked}, the order names {ordered}"
            yield Finding("order_of_another_booking", case.reference, text)


def _check_strangers(
    cases: Sequence[Case], jobs: Mapping[str, Sequence[JobTrace]], witness: Witness
) -> Iterator[Finding]:
    known = {case.reference for case in cases}
    for reference, traces in jobs.items():
        if reference not in known:
            yield Finding(
                "unknown_job", reference or "no reference", f"job {traces[0].job_id} was not submitted"
            )
    for kind, reference in witness.effects:
        if reference not in known:
            yield Finding("unknown_effect", reference, f"a {kind} for something that was not submitted")


def _check_requests(witness: Witness) -> Iterator[Finding]:
    for request in witness.requests:
        if request["status"] == 422:
            text = f"key {request['idempotency_key']} came with two different requests"
            yield Finding("key_reused", f"request {request['sequence']}", text)
        if request["method"] == "POST" and not request["idempotency_key"]:
            yield Finding(
                "key_missing", f"request {request['sequence']}", f"POST {request['path']} without a key"
            )


def _check_urgency(cases: Sequence[Case], jobs: Mapping[str, Sequence[JobTrace]]) -> Iterator[Finding]:
    seconds: dict[str, list[float]] = {"booking": [], "document": []}
    for case in cases:
        seconds[case.agent].extend(job.seconds for job in jobs.get(case.reference, []) if job.ends)
    bookings, documents = seconds["booking"], seconds["document"]
    if not bookings or len(documents) < ENOUGH_DOCUMENTS:
        return
    if median(bookings) > WELL_BELOW * median(documents):
        text = f"median {median(bookings):.2f} s, of documents {median(documents):.2f} s"
        yield Finding("bookings_not_urgent", "bookings", text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Checks a run from its files; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.freight.checker", description=__doc__)
    parser.add_argument("--record", type=Path, required=True, help="record directory of the sandbox")
    parser.add_argument("--log", type=Path, required=True, help="exported log")
    parser.add_argument("--expected", type=Path, required=True, help="expected outcomes, JSON lines")
    options = parser.parse_args(arguments)
    cases = load_cases(options.expected)
    findings = check(cases, read_witness(options.record), read_log(options.log))
    for finding in findings:
        print(finding)
    print(f"{len(cases)} jobs checked, {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())

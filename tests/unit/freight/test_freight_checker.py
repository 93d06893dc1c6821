from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from rich.console import Console

from examples.freight import checker
from examples.freight.checker import check, expected_effects
from examples.freight.demo import Demonstration
from examples.freight.demonstration.scenario import Scenario, Settings
from examples.freight.evidence import REFERENCE_LABEL, read_log, read_witness
from examples.freight.generator import Case, Generator, save_cases
from examples.freight.sandbox.record import EFFECTS, REQUESTS
from workmesh.chain import GENESIS, block_hash, merkle_root
from workmesh.export import read_export, write_export
from workmesh.ids import uuid7
from workmesh.ledger.v1.block_pb2 import Block, ExportFooter, ExportHeader, ExportRecord, Position
from workmesh.ledger.v1.event_pb2 import Event, JobCreated, JobFailed, JobSucceeded, Routing

SECOND = 1_000_000
START = 1_790_000_000 * SECOND
DURATION = {"booking": 2, "document": 12}


@dataclass
class Run:
    """A run that went well, as data: tests plant faults into it before it is written down."""

    cases: list[Case]
    events: list[list[Event]] = field(default_factory=list)
    effects: list[dict[str, Any]] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)

    def write(self, directory: Path) -> None:
        save_cases(directory / "expected.jsonl", self.cases)
        for name, lines in ((EFFECTS, self.effects), (REQUESTS, self.requests)):
            (directory / name).write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
        write_export(directory / "log.export", export(self.events))

    def findings(self, directory: Path) -> set[tuple[str, str]]:
        self.write(directory)
        found = check(self.cases, read_witness(directory), read_log(directory / "log.export"))
        return {(finding.rule, finding.subject) for finding in found}

    def first(self, agent: str, succeeds: bool = True) -> Case:
        return next(case for case in self.cases if case.agent == agent and case.succeeds is succeeds)

    def effect(self, kind: str, case: Case) -> dict[str, Any]:
        return next(
            line for line in self.effects if (line["kind"], line["reference"]) == (kind, case.reference)
        )

    def events_of(self, case: Case) -> list[Event]:
        return next(
            events
            for events in self.events
            if events[0].job_created.labels[REFERENCE_LABEL] == case.reference
        )


def good_run() -> Run:
    generator = Generator(17)
    run = Run(generator.documents(120) + generator.bookings(12))
    for case in run.cases:
        run.events.append(history(case))
        for kind, count in expected_effects(case).items():
            for _ in range(count):
                add_effect(run, case, kind)
    return run


def add_effect(run: Run, case: Case, kind: str) -> None:
    reference = {"carrierBookingRequestReference": f"MAEU-{case.reference}"}
    number = len(run.effects) + 1
    effect = {
        "effect_id": f"x-{number}",
        "kind": kind,
        "reference": case.reference,
        "body": reference,
        "response": reference,
    }
    run.effects.append(effect)
    request = {
        "sequence": number,
        "method": "POST",
        "path": f"/{kind}",
        "status": 201,
        "verdict": "answer",
        "replayed": False,
        "idempotency_key": f"key-{number}",
    }
    run.requests.append(request)


def history(case: Case) -> list[Event]:
    job_id, end = uuid7(), START + DURATION[case.agent] * SECOND
    routing = Routing(dispatch=1, agent=case.agent)
    created = JobCreated(routing=routing, labels={REFERENCE_LABEL: case.reference})
    first = Event(job_id=job_id, seq=1, time_micros=START, job_created=created)
    if case.succeeds:
        return [first, Event(job_id=job_id, seq=2, time_micros=end, job_succeeded=JobSucceeded(epoch=1))]
    error = Status(code=9, message=case.fault)
    error.details.add().Pack(ErrorInfo(reason="BUSINESS_FAILURE", metadata={"failure": case.reason}))
    return [first, Event(job_id=job_id, seq=2, time_micros=end, job_failed=JobFailed(epoch=1, error=error))]


def export(histories: list[list[Event]]) -> Iterator[ExportRecord]:
    """Lays each event into a block of its own, on two chains in turn."""
    heads = {chain: Position(chain=chain, timeline=1, hash=GENESIS) for chain in (1, 2)}
    yield ExportRecord(header=ExportHeader(format=1))
    count = 0
    for event in (event for events in histories for event in events):
        head = heads[count % 2 + 1]
        block = Block(
            chain=head.chain, height=head.height + 1, timeline=1, prev_hash=head.hash, event_count=1
        )
        block.events.append(event.SerializeToString())
        block.time_micros = START
        block.merkle_root = merkle_root(block.events)
        block.hash = block_hash(block.chain, block.height, 1, block.prev_hash, block.merkle_root, 1, START)
        heads[block.chain] = Position(chain=block.chain, timeline=1, height=block.height, hash=block.hash)
        count += 1
        yield ExportRecord(block=block)
    yield ExportRecord(footer=ExportFooter(heads=heads.values(), block_count=count, event_count=count))


def alter_export(path: Path, alter: Callable[[Block], None], index: int = 40) -> None:
    """Changes one block of an export and nothing else."""
    records = list(read_export(path))
    alter(records[index].block)
    write_export(path, records)


def test_a_run_that_went_well_has_no_findings(tmp_path: Path) -> None:
    run = good_run()
    assert run.findings(tmp_path) == set()
    assert {case.succeeds for case in run.cases} == {True, False}


def test_a_doubled_order_is_found(tmp_path: Path) -> None:
    run = good_run()
    case = run.first("booking")
    add_effect(run, case, "order")
    assert run.findings(tmp_path) == {("effect_doubled", case.reference)}


def test_a_missing_posting_is_found(tmp_path: Path) -> None:
    run = good_run()
    case = run.first("document")
    run.effects.remove(run.effect("posting", case))
    assert run.findings(tmp_path) == {("effect_missing", case.reference)}


def test_an_altered_event_is_found_where_it_is(tmp_path: Path) -> None:
    run = good_run()
    run.write(tmp_path)

    def alter(block: Block) -> None:
        event = Event.FromString(block.events[0])
        event.time_micros += 1
        block.events[0] = event.SerializeToString()

    alter_export(tmp_path / "log.export", alter)
    findings = check(run.cases, read_witness(tmp_path), read_log(tmp_path / "log.export"))
    assert [(finding.rule, finding.subject) for finding in findings] == [
        ("chain_broken", "chain 2 height 20")
    ]


def test_an_outcome_rewritten_with_a_fitting_hash_breaks_the_chain_after_it(tmp_path: Path) -> None:
    run = good_run()
    run.write(tmp_path)

    def alter(block: Block) -> None:
        event = Event.FromString(block.events[0])
        event.client_id = "someone"
        block.events[0] = event.SerializeToString()
        block.merkle_root = merkle_root(block.events)
        block.hash = block_hash(block.chain, block.height, 1, block.prev_hash, block.merkle_root, 1, START)

    alter_export(tmp_path / "log.export", alter)
    findings = check(run.cases, read_witness(tmp_path), read_log(tmp_path / "log.export"))
    assert [(finding.rule, finding.subject) for finding in findings] == [
        ("chain_broken", "chain 2 height 21")
    ]


def test_a_cut_export_is_found(tmp_path: Path) -> None:
    run = good_run()
    run.write(tmp_path)
    path = tmp_path / "log.export"
    path.write_bytes(path.read_bytes()[:-30])
    findings = check(run.cases, read_witness(tmp_path), read_log(path))
    assert "log_damaged" in {finding.rule for finding in findings}


def test_a_job_without_an_end_and_one_with_two_are_found(tmp_path: Path) -> None:
    run = good_run()
    open_case, doubled_case = run.first("document"), run.first("booking")
    run.events_of(open_case).pop()
    again = Event()
    again.CopyFrom(run.events_of(doubled_case)[-1])
    again.seq = 3
    run.events_of(doubled_case).append(again)
    expected = {("not_one_outcome", open_case.reference), ("not_one_outcome", doubled_case.reference)}
    assert run.findings(tmp_path) == expected


def test_a_faulty_document_that_failed_for_another_reason_is_found(tmp_path: Path) -> None:
    run = good_run()
    case = run.first("document", succeeds=False)
    error = run.events_of(case)[-1].job_failed.error
    error.ClearField("details")
    error.details.add().Pack(ErrorInfo(reason="BUSINESS_FAILURE", metadata={"failure": "SOMETHING_ELSE"}))
    assert run.findings(tmp_path) == {("wrong_outcome", case.reference)}


def test_a_posting_of_a_faulty_document_is_found(tmp_path: Path) -> None:
    run = good_run()
    case = run.first("document", succeeds=False)
    add_effect(run, case, "posting")
    assert run.findings(tmp_path) == {("effect_of_faulty", case.reference)}


def test_a_lost_job_and_a_doubled_job_are_found(tmp_path: Path) -> None:
    run = good_run()
    lost, doubled = run.first("document"), run.first("booking")
    run.events.remove(run.events_of(lost))
    run.events.append(history(doubled))
    assert run.findings(tmp_path) == {("job_missing", lost.reference), ("job_doubled", doubled.reference)}


def test_effects_and_jobs_nobody_asked_for_are_found(tmp_path: Path) -> None:
    run = good_run()
    stranger = Generator(99).bookings(1)[0]
    add_effect(run, stranger, "order")
    run.events.append(history(stranger))
    assert run.findings(tmp_path) == {
        ("unknown_effect", stranger.reference),
        ("unknown_job", stranger.reference),
    }


def test_an_order_that_names_another_booking_is_found(tmp_path: Path) -> None:
    run = good_run()
    case = run.first("booking")
    run.effect("order", case)["body"] = {"carrierBookingRequestReference": "MSCU-OTHER"}
    assert run.findings(tmp_path) == {("order_of_another_booking", case.reference)}


def test_keys_that_are_missing_or_reused_are_found(tmp_path: Path) -> None:
    run = good_run()
    run.requests[0]["idempotency_key"] = ""
    run.requests[1]["status"] = 422
    assert run.findings(tmp_path) == {("key_missing", "request 1"), ("key_reused", "request 2")}


def test_bookings_that_waited_behind_documents_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DURATION, "booking", 10)
    assert good_run().findings(tmp_path) == {("bookings_not_urgent", "bookings")}


def test_the_command_exits_with_0_for_a_good_run_and_with_1_for_a_planted_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = good_run()
    run.write(tmp_path)
    files = {
        "--record": tmp_path,
        "--log": tmp_path / "log.export",
        "--expected": tmp_path / "expected.jsonl",
    }
    arguments = [str(part) for pair in files.items() for part in pair]
    assert checker.main(arguments) == 0
    add_effect(run, run.first("booking"), "order")
    run.write(tmp_path)
    assert checker.main(arguments) == 1
    assert f"effect_doubled: {run.first('booking').reference}: 2 of kind order" in capsys.readouterr().out


def double_an_order(run: Run) -> None:
    add_effect(run, run.first("booking"), "order")


def drop_a_posting(run: Run) -> None:
    run.effects.remove(run.effect("posting", run.first("document")))


def nothing(run: Run) -> None:
    """The run stays as it is."""


@pytest.mark.parametrize(
    ("plant", "alters_log", "code", "words"),
    [
        (nothing, False, 0, "every job has one outcome"),
        (double_an_order, False, 1, "effect_doubled"),
        (drop_a_posting, False, 1, "effect_missing"),
        (nothing, True, 1, "chain_broken"),
    ],
)
def test_the_demonstration_fails_for_each_planted_fault(
    plant: Callable[[Run], None], alters_log: bool, code: int, words: str, tmp_path: Path
) -> None:
    run = good_run()
    plant(run)
    run.write(tmp_path)
    if alters_log:
        alter_export(tmp_path / "log.export", lambda block: block.events.append(b""))
    (tmp_path / "record").mkdir()
    for name in (EFFECTS, REQUESTS):
        (tmp_path / name).rename(tmp_path / "record" / name)
    bookings = tuple(case for case in run.cases if case.agent == "booking")
    documents = tuple(case for case in run.cases if case.agent == "document")
    output = io.StringIO()
    demonstration = Demonstration(Settings(), tmp_path, Console(file=output, width=80))
    assert demonstration.judge(Scenario(documents, bookings, (), ()), ["agent-1"], True, 1.0) == code
    assert words in output.getvalue()
    assert "succeeded" in output.getvalue()

"""Reads the body of one EDIFACT message while it gathers everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TypeVar

from examples.freight.formats.codes import PARTY_ROLES
from examples.freight.formats.faults import Fault, Reason
from examples.freight.formats.identifiers import check_location, read_edifact_date, read_weight
from examples.freight.formats.segments import Segment

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Party:
    """A NAD segment: its role (UNCL 3035) and name."""

    role: str
    name: str


@dataclass(frozen=True, slots=True)
class Voyage:
    """TDT+20: the voyage, its carrier (SCAC), the vessel's IMO number and name."""

    number: str
    carrier: str
    vessel_number: str
    vessel_name: str


class BodyReader:
    """Finds segments by tag and qualifier and notes a fault for each one that is missing or wrong."""

    def __init__(self, body: Sequence[Segment]) -> None:
        self.body = body
        self.faults: list[Fault] = []

    def allow(self, tags: frozenset[str]) -> None:
        """Notes each segment whose tag the message does not know."""
        for segment in self.body:
            if segment.tag not in tags:
                self.note(
                    Fault(
                        Reason.UNEXPECTED_SEGMENT, f"{segment.tag} is not part of this message", segment.where
                    )
                )

    def all(self, tag: str, qualifier: str = "") -> list[Segment]:
        """Returns the segments with that tag whose first component is the qualifier ("" is any)."""
        return [part for part in self.body if part.tag == tag and (not qualifier or part.get(0) == qualifier)]

    def require(self, tag: str, qualifier: str = "") -> Segment | None:
        """Returns the first such segment, or notes that it is missing."""
        matches = self.all(tag, qualifier)
        if matches:
            return matches[0]
        name = f"{tag}+{qualifier}" if qualifier else tag
        self.note(Fault(Reason.MISSING_SEGMENT, f"the message has no {name}", name))
        return None

    def value(self, segment: Segment | None, element: int, component: int = 0) -> str:
        """Returns a component that must not be empty; "" for one that is, with a fault."""
        if segment is None:
            return ""
        text = segment.get(element, component)
        if not text:
            self.note(
                Fault(Reason.MISSING_FIELD, f"element {element + 1}.{component + 1} is empty", segment.where)
            )
        return text

    def check(
        self,
        rule: Callable[[str, str], Fault | None],
        segment: Segment | None,
        element: int,
        component: int = 0,
    ) -> str:
        """Returns a component after a check of its value."""
        text = self.value(segment, element, component)
        if text and segment is not None:
            self.note(rule(text, segment.where))
        return text

    def date(self, segment: Segment | None) -> datetime | None:
        """Reads a DTM segment."""
        if segment is None:
            return None
        return self.keep(read_edifact_date(segment.get(0, 1), segment.get(0, 2), segment.where))

    def location(self, qualifier: str) -> str:
        """Reads a required LOC by its qualifier and checks its UN/LOCODE."""
        return self.check(check_location, self.require("LOC", qualifier), 1)

    def weight(self, segment: Segment | None, element: int, component: int) -> Decimal:
        """Reads a weight in kilograms; zero for a bad one, with a fault."""
        if segment is None:
            return Decimal(0)
        return self.keep(read_weight(segment.get(element, component), segment.where)) or Decimal(0)

    def voyage(self, check_vessel: Callable[[str, str], Fault | None]) -> Voyage:
        """Reads the main carriage: TDT+20+voyage+1++carrier:172:182+++IMO:146:11:name."""
        tdt = self.require("TDT", "20")
        number, carrier = self.value(tdt, 1), self.value(tdt, 4)
        vessel = self.check(check_vessel, tdt, 7)
        return Voyage(number, carrier, vessel, tdt.get(7, 3) if tdt else "")

    def parties(self, required: Iterable[str]) -> tuple[Party, ...]:
        """Reads the NAD segments (name in C080) and notes each required role that no NAD names."""
        for role in required:
            self.require("NAD", role)
        parties = []
        for nad in self.all("NAD"):
            if nad.get(0) not in PARTY_ROLES:
                self.note(Fault(Reason.INVALID_FIELD, f"party role {nad.get(0)!r} is unknown", nad.where))
            parties.append(Party(nad.get(0), nad.get(3) or nad.get(1)))
        return tuple(parties)

    def note(self, fault: Fault | None) -> None:
        """Adds a fault, if there is one."""
        if fault is not None:
            self.faults.append(fault)

    def keep(self, outcome: Value | Fault) -> Value | None:
        """Returns a value, or notes the fault that came in its place."""
        if isinstance(outcome, Fault):
            self.note(outcome)
            return None
        return outcome


def group(body: Sequence[Segment], trigger: str, members: frozenset[str]) -> list[tuple[Segment, ...]]:
    """Cuts a segment group out of a message: each trigger with the members that follow it directly."""
    groups: list[list[Segment]] = []
    open_group = False
    for segment in body:
        if segment.tag == trigger:
            groups.append([segment])
            open_group = True
        elif open_group and segment.tag in members:
            groups[-1].append(segment)
        else:
            open_group = False
    return [tuple(segments) for segments in groups]

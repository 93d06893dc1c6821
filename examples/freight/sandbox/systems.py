"""The systems the sandbox plays: what each operation reads, makes and answers. No HTTP, latency or faults."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from examples.freight.parties import DENIED
from examples.freight.sandbox.effects import Draft, EffectStore

Body = dict[str, Any]


class Refused(Exception):
    """A system refuses a request: an HTTP status, a reason and one sentence."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Read:
    """A read: GET `path`; answers from the arguments in path and query."""

    path: str
    answer: Callable[[Mapping[str, str]], Body]


@dataclass(frozen=True, slots=True)
class Write:
    """A write: POST `path`; drafts the effect that the body asks for."""

    path: str
    draft: Callable[[Body], Draft]


Operation = Read | Write


@dataclass(frozen=True, slots=True)
class System:
    """One system: its name, which is also the first part of its paths, and its operations."""

    name: str
    operations: tuple[Operation, ...]


def all_systems(store: EffectStore, seed: int) -> tuple[System, ...]:
    """Returns the two carriers, the customs portal and the ERP."""
    return (
        Carrier("carrier-a", "MAEU", seed, store).system(),
        Carrier("carrier-b", "MSCU", seed, store).system(),
        customs(store),
        erp(store),
    )


class Carrier:
    """A carrier: rates by route and equipment, bookings in the fields of the DCSA booking standard."""

    def __init__(self, name: str, code: str, seed: int, store: EffectStore) -> None:
        self.name = name
        self.code = code
        self._seed = seed
        self._store = store

    def system(self) -> System:
        operations = (
            Read("/v1/rates", self._rate),
            Write("/v2/bookings", self._book),
            Read("/v2/bookings/{reference}", _finder(self._store, self.name, "booking")),
        )
        return System(self.name, operations)

    def _rate(self, arguments: Mapping[str, str]) -> Body:
        route = [_argument(arguments, name) for name in ("POL", "POD", "ISOEquipmentCode")]
        units = _argument(arguments, "units")
        if not (units.isascii() and units.isdigit() and 0 < int(units) <= 500):
            raise Refused(400, "INVALID_UNITS", f"units must be 1 to 500, not {units!r}")
        digest = hashlib.sha256("/".join([str(self._seed), self.name, *route]).encode()).digest()
        amount = 600 + int.from_bytes(digest[:2]) % 3_400
        days = 9 + digest[2] % 32
        return {
            "carrierCode": self.code,
            "amount": amount * int(units),
            "currencyCode": "USD",
            "transitDays": days,
        }

    def _book(self, body: Body) -> Draft:
        _require(body, "requestedEquipments", "shipmentLocations", "references", "serviceContractReference")
        reference = next(
            (item.get("value", "") for item in body["references"] if item.get("type") == "CR"), ""
        )
        if not reference:
            raise Refused(400, "MISSING_FIELD", "references holds no customer's reference (type CR)")
        return Draft("booking", reference, body, 202, self._confirm)

    def _confirm(self, effect_id: str) -> Body:
        request_reference = f"{self.code}{effect_id.rpartition('-')[2]}"
        return {
            "carrierBookingRequestReference": request_reference,
            "bookingStatus": "RECEIVED",
            "carrierCode": self.code,
        }


def customs(store: EffectStore) -> System:
    """A customs portal: screens the parties of a document."""
    finder = _finder(store, "customs", "screening")
    return System("customs", (Write("/screenings", _screen), Read("/screenings/{reference}", finder)))


def erp(store: EffectStore) -> System:
    """An ERP: freight orders and postings of documents to shipments."""
    operations = (
        Write("/orders", _post_order),
        Read("/orders/{reference}", _finder(store, "erp", "order")),
        Write("/postings", _post_document),
        Read("/postings/{reference}", _finder(store, "erp", "posting")),
    )
    return System("erp", operations)


_SCREENED: Final = frozenset(DENIED)


def _screen(body: Body) -> Draft:
    _require(body, "documentReference", "shipmentReference", "parties")
    matches = sorted(party for party in body["parties"] if party in _SCREENED)
    decision = "REJECTED" if matches else "CLEARED"

    def respond(effect_id: str) -> Body:
        return {"screeningReference": effect_id, "decision": decision, "matches": matches}

    return Draft("screening", str(body["documentReference"]), body, 201, respond)


def _post_order(body: Body) -> Draft:
    _require(
        body, "orderReference", "carrierCode", "carrierBookingRequestReference", "amount", "currencyCode"
    )

    def respond(effect_id: str) -> Body:
        return {
            "freightOrderNumber": effect_id,
            "orderReference": body["orderReference"],
            "status": "CREATED",
        }

    return Draft("order", str(body["orderReference"]), body, 201, respond)


def _post_document(body: Body) -> Draft:
    _require(body, "documentReference", "shipmentReference", "messageType", "screeningReference")

    def respond(effect_id: str) -> Body:
        return {
            "postingNumber": effect_id,
            "documentReference": body["documentReference"],
            "status": "POSTED",
        }

    return Draft("posting", str(body["documentReference"]), body, 201, respond)


def _finder(store: EffectStore, system: str, kind: str) -> Callable[[Mapping[str, str]], Body]:
    def find(arguments: Mapping[str, str]) -> Body:
        reference = arguments["reference"]
        effects = store.find(system, kind, reference)
        if not effects:
            raise Refused(404, "NOT_FOUND", f"{system} has no {kind} for {reference}")
        return {**effects[-1].response, "reference": reference, "count": len(effects)}

    return find


def _argument(arguments: Mapping[str, str], name: str) -> str:
    value = arguments.get(name, "")
    if not value:
        raise Refused(400, "MISSING_ARGUMENT", f"query argument {name} is missing")
    return value


def _require(body: Body, *names: str) -> None:
    missing = [name for name in names if body.get(name) in (None, "", [], {})]
    if missing:
        raise Refused(400, "MISSING_FIELD", f"missing: {', '.join(missing)}")

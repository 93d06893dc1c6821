"""Checks of single values: container numbers, vessels, places, dates, weights.

Container numbers (ISO 6346) and vessel numbers (IMO) go through python-stdnum, which has no UN/LOCODE: places
are checked by the form of UNECE Recommendation 16 and the table of ports served.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Final

from stdnum import imo, iso6346
from stdnum.exceptions import InvalidChecksum, ValidationError

from examples.freight.formats.codes import EQUIPMENT_TYPES, LOCATIONS
from examples.freight.formats.faults import Fault, Reason

# stdnum's own pattern lets an underscore or a non-Latin letter through to an index error.
_CONTAINER: Final = re.compile(r"[A-Z]{3}[UJZR][0-9]{7}")
_VESSEL: Final = re.compile(r"[0-9]{7}")
_LOCATION: Final = re.compile(r"[A-Z]{2}[A-Z2-9]{3}")
_WEIGHT: Final = re.compile(r"[0-9]{1,9}([.,][0-9]{1,3})?")
_ISO_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")

#: UNCL 2379 date formats: code → (strptime format, exact length).
_DATE_FORMATS: Final[dict[str, tuple[str, int]]] = {"102": ("%Y%m%d", 8), "203": ("%Y%m%d%H%M", 12)}


def check_container(number: str, where: str) -> Fault | None:
    """Checks an ISO 6346 container number: form, then check digit."""
    if not _CONTAINER.fullmatch(number):
        return Fault(Reason.INVALID_CONTAINER, f"{number!r} is not of the form AAAU1234567", where)
    return _by_stdnum(iso6346.validate, number, Reason.INVALID_CONTAINER, where)


def check_vessel(number: str, where: str) -> Fault | None:
    """Checks an IMO ship number: seven digits, then the check digit."""
    if not _VESSEL.fullmatch(number):
        return Fault(Reason.INVALID_VESSEL, f"{number!r} is not a seven-digit IMO number", where)
    return _by_stdnum(imo.validate, number, Reason.INVALID_VESSEL, where)


def check_location(code: str, where: str) -> Fault | None:
    """Checks that a UN/LOCODE is well formed and served."""
    if not _LOCATION.fullmatch(code):
        return Fault(Reason.UNKNOWN_LOCATION, f"{code!r} is not a UN/LOCODE", where)
    if code not in LOCATIONS:
        return Fault(Reason.UNKNOWN_LOCATION, f"UN/LOCODE {code} is not a port served here", where)
    return None


def check_equipment_type(code: str, where: str) -> Fault | None:
    """Checks an ISO 6346 size and type code."""
    if code in EQUIPMENT_TYPES:
        return None
    return Fault(Reason.UNKNOWN_EQUIPMENT_TYPE, f"{code!r} is no ISO size and type code in use", where)


def read_iso_date(text: str, where: str) -> date | Fault:
    """Reads `YYYY-MM-DD`."""
    try:
        if _ISO_DATE.fullmatch(text):
            return date.fromisoformat(text)
    except ValueError as error:
        return Fault(Reason.INVALID_DATE, f"{text}: {error}", where)
    return Fault(Reason.INVALID_DATE, f"{text!r} is not a date YYYY-MM-DD", where)


def read_edifact_date(text: str, form: str, where: str) -> datetime | Fault:
    """Reads DTM C507: the value and its format code, 102 (CCYYMMDD) or 203 (CCYYMMDDHHMM), as UTC."""
    known = _DATE_FORMATS.get(form)
    if known is None:
        return Fault(Reason.INVALID_DATE, f"date format {form!r} is neither 102 nor 203", where)
    pattern, length = known
    if len(text) != length or not (text.isascii() and text.isdigit()):
        return Fault(Reason.INVALID_DATE, f"{text!r} has not the {length} digits of format {form}", where)
    try:
        return datetime.strptime(text, pattern).replace(tzinfo=UTC)
    except ValueError:
        return Fault(Reason.INVALID_DATE, f"{text!r} is no date of the calendar", where)


def read_weight(text: str, where: str) -> Decimal | Fault:
    """Reads a positive weight in kilograms; ISO 9735 allows comma and point as decimal mark."""
    weight = Decimal(text.replace(",", ".")) if _WEIGHT.fullmatch(text) else Decimal(0)
    if weight > 0:
        return weight
    return Fault(Reason.INVALID_WEIGHT, f"{text!r} is not a positive weight in kilograms", where)


def container_check_digit(owner_and_serial: str) -> str:
    """Returns the ISO 6346 check digit for ten characters such as `MSKU123456`."""
    return str(iso6346.calc_check_digit(owner_and_serial))


def vessel_check_digit(serial: str) -> str:
    """Returns the IMO check digit for six digits."""
    return str(imo.calc_check_digit(serial))


def _by_stdnum(validate: Callable[[str], str], number: str, reason: Reason, where: str) -> Fault | None:
    try:
        validate(number)
    except InvalidChecksum:
        return Fault(reason, f"the check digit of {number} is wrong", where)
    except ValidationError as error:
        return Fault(reason, f"{number}: {error}", where)
    return None

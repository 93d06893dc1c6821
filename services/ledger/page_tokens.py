"""Opaque page tokens of the lists: where a page ended, bound to the filter it was made for.

A token is the URL-safe base64 of a JSON list: a digest of the filter, then the key of the last row. It is no
authorisation: every call checks its caller anew.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from typing import Final

import orjson
from google.protobuf.message import Message

from workmesh import errors

DEFAULT_PAGE_SIZE: Final = 50
MAX_PAGE_SIZE: Final = 1_000

_MAX_TOKEN_LENGTH: Final = 4_096
_PAGING_FIELDS: Final = ("page_size", "page_token")

Key = Sequence[str | int]
"""The sort key of a row."""


def page_size_of(asked: int) -> int:
    """Return the rows of a page: 50 where 0 is asked, at most 1,000; negative is INVALID_ARGUMENT."""
    if asked < 0:
        raise _refuse("page_size", "is negative")
    return min(asked, MAX_PAGE_SIZE) if asked else DEFAULT_PAGE_SIZE


def make_token(request: Message, key: Key) -> str:
    """Return the token that continues the request's list after the row with this key."""
    data = orjson.dumps([_filter_digest(request), *key])
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def read_token(request: Message, token: str, *kinds: type) -> list[str | int] | None:
    """Return the key that a request's token carries, of the given types; None for the first page.

    Raises INVALID_ARGUMENT for a token that is malformed or was made for another filter.
    """
    if not token:
        return None
    fields = _decode(token)
    if [type(each) for each in fields[1:]] != list(kinds) or not all(map(_is_storable, fields[1:])):
        raise _refuse("page_token", "is not a token of this list")
    if fields[0] != _filter_digest(request):
        raise _refuse("page_token", "was made for another filter")
    return fields[1:]


def _decode(token: str) -> list[str | int]:
    if len(token) > _MAX_TOKEN_LENGTH:
        raise _refuse("page_token", "is too long")
    try:
        data = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        fields = orjson.loads(data)
    except (binascii.Error, ValueError):
        raise _refuse("page_token", "is malformed") from None
    if not isinstance(fields, list) or not fields:
        raise _refuse("page_token", "is malformed")
    return fields


def _is_storable(value: str | int) -> bool:
    return "\0" not in value if isinstance(value, str) else 0 <= value < 1 << 31


def _filter_digest(request: Message) -> str:
    """Digest what a request asks for, apart from the page; equal filters have equal digests."""
    bare = type(request)()
    bare.CopyFrom(request)
    for field in _PAGING_FIELDS:
        bare.ClearField(field)
    name = type(request).DESCRIPTOR.full_name.encode()
    data = bare.SerializeToString(deterministic=True)
    return hashlib.blake2b(name + b"\0" + data, digest_size=9).hexdigest()


def _refuse(field: str, description: str) -> errors.MeshError:
    return errors.invalid_argument(f"{field} {description}", errors.Violation(field, description))

"""Canonical JSON: what step arguments and results are compared and stored as."""

from __future__ import annotations

import hashlib
from typing import Any, Final

import orjson

from workmesh import payload
from workmesh.errors import MeshError
from workmesh.sdk.errors import NonRetryableError

MOST_RESULT_BYTES: Final = 256 << 10
"""Largest result of a step."""


def canonical_json(value: Any, field: str, most_bytes: int = payload.MAX_BYTES) -> bytes:
    """Return JSON with sorted keys; NonRetryableError when the value is none or beyond the mesh's limits."""
    try:
        data = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
        if _is_doubtful(data):
            payload.dump_json(value, field=field)
    except orjson.JSONEncodeError as error:
        raise NonRetryableError(f"{field} is not JSON: {error}") from None
    except MeshError as error:
        raise NonRetryableError(error.message) from None
    if len(data) > most_bytes:
        raise NonRetryableError(f"{field} has {len(data)} bytes of JSON, more than {most_bytes}")
    return data


def digest(data: bytes) -> bytes:
    """Return the SHA-256 of canonical JSON."""
    return hashlib.sha256(data).digest()


def _is_doubtful(data: bytes) -> bool:
    """Tell whether a closer look is due: at NaN (written as null), U+0000 or deep nesting."""
    return b"null" in data or b"\\u0000" in data or data.count(b"{") + data.count(b"[") > payload.MAX_DEPTH

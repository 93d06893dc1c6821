"""JSON lines on stderr: a sentence for people, a stable `action` and ids as fields for machines."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, BinaryIO, Final

import orjson

from workmesh import telemetry

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "action"}
_SECRETS: Final = ("token", "secret", "password", "authorization", "credential", "private_key")
_HARMLESS: Final = frozenset({"token_id", "page_token_size"})

# Libraries that tell at INFO or DEBUG what is their own business only.
_QUIET: Final = ("grpc", "nats", "asyncio", "asyncpg", "aiohttp.access", "opentelemetry", "urllib3")


def configure(service: str, instance: str, level: str = "INFO", *, stream: BinaryIO | None = None) -> None:
    """Send all logging of the process to stderr as JSON lines; ValueError for an unknown level."""
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"{level!r} is no log level")
    handler = JsonHandler(service, instance, stream or sys.stderr.buffer)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(number, logging.WARNING))
    logging.captureWarnings(True)


class JsonHandler(logging.Handler):
    """Writes one line a record, each by a single write, so that processes may share a file."""

    def __init__(self, service: str, instance: str, stream: BinaryIO) -> None:
        super().__init__()
        self._names = {"service": service, "instance": instance}
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._stream.write(self.render(record))
            self._stream.flush()
        except (OSError, ValueError):
            # Nobody reads any more (the pipe is gone or closed): that is no reason to fail the work.
            return

    def render(self, record: logging.LogRecord) -> bytes:
        """Return the record as one line of JSON."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname,
            **self._names,
            "logger": record.name,
            "action": getattr(record, "action", ""),
            "message": _message(record),
            "trace_id": telemetry.current_trace_id(),
        }
        for key, value in vars(record).items():
            if key not in _STANDARD:
                line[key] = "[redacted]" if _is_secret(key) else value
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = _describe(record.exc_info)
        try:
            return orjson.dumps(line, default=str, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS)
        except TypeError:
            # Text that is no Unicode, or a number beyond 64 bits: rare, and no reason to lose the line.
            return json.dumps(line, default=str).encode() + b"\n"


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError):
        return f"{record.msg} {record.args}"


def _is_secret(key: str) -> bool:
    lowered = key.lower()
    return lowered not in _HARMLESS and any(word in lowered for word in _SECRETS)


def _describe(
    info: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None],
) -> dict[str, str]:
    kind, error, trace = info
    return {
        "type": kind.__name__ if kind is not None else "",
        "message": str(error),
        "stack": "".join(traceback.format_exception(kind, error, trace)),
    }

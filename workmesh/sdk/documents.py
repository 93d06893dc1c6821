"""State documents as one attempt sees them: reads that hold, writes that wait for the commit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import orjson

from workmesh.ids import is_name
from workmesh.ledger.v1.job_pb2 import StateDocument, StateWrite
from workmesh.sdk.encoding import MOST_RESULT_BYTES, canonical_json
from workmesh.sdk.errors import NonRetryableError

Change = Callable[[Any], Any]
Ref = tuple[str, str]

MOST_KEY_LENGTH: Final = 256
MOST_DOCUMENT_BYTES: Final = MOST_RESULT_BYTES - 64
"""Largest document: with its version it must fit the result of a journaled step."""
MOST_WRITTEN_BYTES: Final = 1 << 20
"""All documents that one attempt writes together."""


class Document:
    """One document: the version relied on, the value as the program sees it and the changes in order."""

    __slots__ = ("body", "changes", "is_known", "read_step", "relies_on_read", "version")

    def __init__(self) -> None:
        self.is_known = False
        self.version: int | None = None
        self.body: bytes | None = None
        self.changes: list[bytes | Change] = []
        self.read_step = ""
        self.relies_on_read = False

    def learn(self, step: str, version: int | None, body: bytes | None) -> None:
        """Take the outcome of the first read; later reads and own writes stand above it.

        A replay may meet a branch's write before another branch's read that came first: the write relies on
        it all the same.
        """
        if not self.is_known:
            self.is_known = True
            self.version = version
            self.body = body
            self.read_step = step
        elif self.version is None and version is not None:
            self.version = version
            self.read_step = step
            self.relies_on_read = any(isinstance(change, bytes) for change in self.changes)

    def put(self, body: bytes) -> None:
        """Replace the value; after a read the write relies on what was read."""
        self.relies_on_read = self.relies_on_read or self.version is not None
        self.is_known = True
        self.changes.append(body)
        self.body = body

    def update(self, change: Change, body: bytes) -> None:
        """Replace the value by what a function made of it."""
        self.changes.append(change)
        self.body = body

    def rebase(self, version: int, body: bytes | None, field: str) -> None:
        """Apply the changes once more, to a fresh version."""
        self.version = version
        self.body = body
        for change in self.changes:
            self.body = change if isinstance(change, bytes) else apply_change(change, self.body, field)


class Documents:
    """The documents an attempt has read or written."""

    def __init__(self) -> None:
        self._documents: dict[Ref, Document] = {}

    def of(self, collection: str, key: str) -> Document:
        """Return a document's record, new ones unread; NonRetryableError for impossible names."""
        document = self._documents.get((collection, key))
        if document is None:
            _check_ref(collection, key)
            document = self._documents[collection, key] = Document()
        return document

    def writes(self) -> list[StateWrite]:
        """Return the writes to commit, one a document, in the order the documents were met."""
        writes = [
            StateWrite(collection=ref[0], key=ref[1], body=each.body, expected_version=each.version)
            for ref, each in self._documents.items()
            if each.changes and each.body is not None
        ]
        if writes and sum(len(write.body) for write in writes) > MOST_WRITTEN_BYTES:
            raise NonRetryableError(f"the attempt writes more than {MOST_WRITTEN_BYTES} bytes of state")
        return writes

    def rebase(self, conflicts: Sequence[StateDocument]) -> tuple[Ref, Document] | None:
        """Run the update functions again on fresh documents; return one that cannot be rebased.

        That is a document which a plain write replaced on the strength of a read.
        """
        for fresh in conflicts:
            ref = (fresh.collection, fresh.key)
            document = self.of(*ref)
            if document.relies_on_read:
                return ref, document
            document.rebase(fresh.version, fresh.body if fresh.version else None, field_of(*ref))
        return None


def apply_change(change: Change, body: bytes | None, field: str) -> bytes:
    """Return what a function makes of a document; it gets a copy of its own, None where there is none."""
    return encode(change(decode(body)), field)


def encode(value: Any, field: str) -> bytes:
    """Return a document's canonical JSON; NonRetryableError when it is too large or none."""
    return canonical_json(value, field, MOST_DOCUMENT_BYTES)


def decode(body: bytes | None) -> Any:
    """Return a document's value, None where there is none."""
    return None if body is None else orjson.loads(body)


def field_of(collection: str, key: str) -> str:
    """Return the document's name in messages and in the journal."""
    return f"{collection}/{key}"


def _check_ref(collection: object, key: object) -> None:
    if not isinstance(collection, str) or not is_name(collection):
        raise NonRetryableError(f"{collection!r} is not the name of a collection: [a-z0-9][a-z0-9-]{{0,62}}")
    if not _is_key(key):
        raise NonRetryableError(
            f"a document's key has 1 to {MOST_KEY_LENGTH} characters, none of them U+0000"
        )


def _is_key(key: object) -> bool:
    if not isinstance(key, str) or not 1 <= len(key) <= MOST_KEY_LENGTH or "\0" in key:
        return False
    try:
        key.encode()
    except UnicodeEncodeError:
        # Half of a surrogate pair is no character.
        return False
    return True

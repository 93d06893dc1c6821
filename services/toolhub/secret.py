"""A secret value that no representation shows, and its removal from foreign text."""

from __future__ import annotations

import json
from typing import Final

MASK: Final = "[secret]"


class Secret:
    """What an integration authenticates with: the header it goes into and the header's full value."""

    __slots__ = ("_forms", "_value", "header")

    def __init__(self, value: str, *, header: str = "Authorization", scheme: str = "Bearer") -> None:
        self.header = header
        self._value = f"{scheme} {value}" if scheme else value
        # A system that echoes the secret may do so inside JSON, where some characters are escaped.
        escaped = json.dumps(value)[1:-1]
        self._forms = tuple(dict.fromkeys((value, escaped, escaped.replace("/", "\\/"))))

    def __repr__(self) -> str:
        return f"Secret(header={self.header!r})"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a secret is not serialised")

    def reveal(self) -> str:
        """Return the header's value, to be handed to the driver and nobody else."""
        return self._value

    def redact(self, text: str) -> str:
        """Return the text without the secret."""
        for form in self._forms:
            text = text.replace(form, MASK)
        return text

    def redact_cut(self, text: str) -> str:
        """Return the start of a longer text without the secret, nor a part of it at the cut."""
        return self.redact(text)[: -max(map(len, self._forms))]

    def redact_json(self, data: bytes) -> bytes:
        """Return JSON bytes without the secret; they stay JSON."""
        for form in self._forms:
            encoded = form.encode()
            if encoded in data:
                data = data.replace(encoded, MASK.encode())
        return data

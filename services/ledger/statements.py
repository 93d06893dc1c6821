"""Named SQL statements.

A file of `sql/queries/` holds, for each statement, a line `-- name --`, a description as comment and the SQL.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

DIRECTORY: Final = Path(__file__).parent / "sql" / "queries"

_NAME = re.compile(r"^-- ([a-z][a-z0-9_]*) --$", re.MULTILINE)


def load(file: str, directory: Path = DIRECTORY) -> Mapping[str, str]:
    """Return the statements of `<file>.sql` by name; ValueError if the file repeats a name or has none."""
    _, *parts = _NAME.split((directory / f"{file}.sql").read_text())
    names, statements = parts[::2], parts[1::2]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"{file}.sql must name each of its statements once, as `-- name --`")
    return {name: statement.strip() for name, statement in zip(names, statements, strict=True)}

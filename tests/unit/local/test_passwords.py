from __future__ import annotations

import stat
from pathlib import Path

from workmesh.local.passwords import load_passwords, write_private


def test_passwords_are_made_once_and_kept_private(tmp_path: Path) -> None:
    first = load_passwords(tmp_path, ("a", "b"))
    second = load_passwords(tmp_path, ("b", "c"))
    assert first["b"] == second["b"]
    assert len({second[user] for user in ("a", "b", "c")}) == 3
    assert stat.S_IMODE((tmp_path / "passwords.json").stat().st_mode) == 0o600


def test_a_private_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_private(path, "first")
    held = path.open()
    write_private(path, "second")
    assert (held.read(), path.read_text()) == ("first", "second")
    held.close()
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]

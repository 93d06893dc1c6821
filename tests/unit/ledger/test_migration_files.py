from __future__ import annotations

from pathlib import Path

import pytest

from services.ledger import statements
from services.ledger.migrations import Migration, MigrationError, load, pending


def files(directory: Path, *names: str) -> Path:
    for name in names:
        (directory / name).write_text(f"select '{name}';")
    return directory


def test_the_ledgers_own_migrations_are_well_named() -> None:
    found = load()
    assert [each.version for each in found] == list(range(1, len(found) + 1))


@pytest.mark.parametrize(
    "names", [("1_words.sql",), ("0001-words.sql",), ("0002_words.sql",), ("0001_a.sql", "0003_c.sql")]
)
def test_wrong_names_and_gaps_are_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    with pytest.raises(MigrationError):
        load(files(tmp_path, *names))


def migration(version: int, checksum: str = "same") -> Migration:
    return Migration(version, f"{version:04}_words", "", checksum)


def test_only_what_is_missing_is_pending() -> None:
    known = [migration(1), migration(2), migration(3)]
    assert pending(known, [(1, "same")]) == (known[1], known[2])
    assert pending(known, []) == tuple(known)
    assert pending(known, [(1, "same"), (2, "same"), (3, "same"), (4, "newer")]) == ()


@pytest.mark.parametrize(
    ("applied", "message"),
    [([(1, "other")], "was changed"), ([(1, "same"), (3, "same")], "was left out")],
)
def test_a_history_that_differs_is_refused(applied: list[tuple[int, str]], message: str) -> None:
    with pytest.raises(MigrationError, match=message):
        pending([migration(1), migration(2), migration(3)], applied)


def test_statements_are_named_once(tmp_path: Path) -> None:
    (tmp_path / "good.sql").write_text(
        "-- Of the file.\n\n-- one --\n-- Says one.\nselect 1;\n\n-- two --\nselect 2;\n"
    )
    assert statements.load("good", tmp_path) == {"one": "-- Says one.\nselect 1;", "two": "select 2;"}
    (tmp_path / "twice.sql").write_text("-- one --\nselect 1;\n-- one --\nselect 2;\n")
    (tmp_path / "none.sql").write_text("select 1;\n")
    for name in ("twice", "none"):
        with pytest.raises(ValueError, match=r"must name each"):
            statements.load(name, tmp_path)

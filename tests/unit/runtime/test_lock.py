"""The lock that every installation is made from."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked() -> dict[str, str]:
    """Return the text of each package's block, keyed by its canonical name."""
    blocks = re.split(r"\n(?=[a-z0-9])", LOCK.partition("make lock\n")[2])
    return {canonical(block.partition("==")[0]): block for block in blocks}


def test_every_dependency_of_the_project_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = project["dependencies"] + [
        each for extra in project["optional-dependencies"].values() for each in extra
    ]
    names = {canonical(re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]) for requirement in wanted}
    assert names - locked().keys() == set(), "run `make lock`"


def test_every_locked_package_is_pinned_by_hash() -> None:
    assert len(locked()) > 50
    assert [name for name, block in locked().items() if "--hash=sha256:" not in block] == []


def test_the_lock_names_no_index() -> None:
    assert re.findall(r"https?:|--(?:extra-)?index-url|--find-links|file:", LOCK) == []

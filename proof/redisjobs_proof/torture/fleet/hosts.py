"""The hosts of a torture's workers: their kinds, and functions that freeze and kill processes."""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of host.

    Attributes:
        db: The database of its workers.
        options: More arguments of `redisjobs worker`.
        old: Whether it plays an older release, which does not know one of the jobs.
        processes: The number of its worker processes; several run under a supervisor.
        leases: Its workers' lease, as a multiple of the fleet's lease.
    """

    options: Sequence[str] = ()
    old: bool = False
    processes: int = 1
    db: int = 0
    leases: float = 1.0


LONGER = 1.5
"""The lease of some workers, as a multiple of the fleet's lease, as if a deploy had changed it."""
HOSTS = (
    *(Kind(), Kind(("--no-schedules",), old=True, leases=LONGER), Kind(("--processes", "2"), processes=2)),
    *(Kind(db=1), Kind(db=1, leases=LONGER)),
)
"""The hosts of a fleet. Two of the four worker processes of the first database run under a supervisor.

Workers of each database have two different leases. All hosts but one fire schedules, so each database has several
schedulers.
"""


@dataclass(slots=True)
class Host:
    """One host: a worker process, or a supervisor with several.

    Attributes:
        process: Its first process: the worker, or the supervisor.
        frozen: Whether one of its processes is stopped by SIGSTOP.
        leaving: Whether it was asked to end.
        again_at: When to start it again, by the monotonic clock; 0 while it runs.
    """

    kind: Kind
    process: "subprocess.Popen[bytes]"
    frozen: bool = False
    leaving: bool = False
    again_at: float = 0.0


def children(pid: int) -> list[int]:
    """Return the children that a process has not reaped yet; none without /proc."""
    with suppress(FileNotFoundError):
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    return []


def freeze(process: "subprocess.Popen[bytes]") -> None:
    """Stop a child process; on Linux it has stopped when this returns."""
    process.send_signal(signal.SIGSTOP)
    if sys.platform == "linux" and process.returncode is None:
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)


def kill(pid: int) -> None:
    """Kill a process that is not our child; on Linux it has ended when this returns."""
    with suppress(ProcessLookupError):
        if sys.platform != "linux":
            os.kill(pid, signal.SIGKILL)
            return
        process = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(process, signal.SIGKILL)
            select.select([process], [], [])
        finally:
            os.close(process)


def parent_of(path: Path) -> int:
    """Return the parent of the process that wrote a recording, from its first line; 0 if there is none yet."""
    first, newline, _ = path.read_bytes().partition(b"\n")
    return int(json.loads(first)["parent"]) if newline else 0


def is_alive(pid: int) -> bool:
    """Whether a process runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True

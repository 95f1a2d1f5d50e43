"""The hosts of a torture's workers: what kinds there are, and what can be done to their processes."""

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
        old: Whether it runs an older release, which lacks a job.
        processes: Its worker processes; several are under a supervisor.
        leases: Its workers' lease, in leases of the fleet.
    """

    options: Sequence[str] = ()
    old: bool = False
    processes: int = 1
    db: int = 0
    leases: float = 1.0


LONGER = 1.5
"""The lease of some workers, in leases of the fleet: as when a deploy changes it."""
HOSTS = (
    *(Kind(), Kind(("--no-schedules",), old=True, leases=LONGER), Kind(("--processes", "2"), processes=2)),
    *(Kind(db=1), Kind(db=1, leases=LONGER)),
)
"""The hosts of a fleet: half of the first database's are under a supervisor; each database has two leases.

All but one fire schedules, so in each database there are several schedulers.
"""


@dataclass(slots=True)
class Host:
    """One host: a worker process, or a supervisor with several.

    Attributes:
        process: Its first process.
        frozen: Whether it, or one of its processes, is stopped by SIGSTOP.
        leaving: Whether it was asked to end.
        again_at: When to start it again, by the monotonic clock; 0 while it runs.
    """

    kind: Kind
    process: "subprocess.Popen[bytes]"
    frozen: bool = False
    leaving: bool = False
    again_at: float = 0.0


def children(pid: int) -> list[int]:
    """Return the processes that a process has started and not yet reaped; none without /proc."""
    with suppress(FileNotFoundError):
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    return []


def freeze(process: "subprocess.Popen[bytes]") -> None:
    """Stop a process of ours; on Linux it does nothing more when this returns."""
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
    """Return the parent of a recording's process, which is in its first line; 0 if that is not written yet."""
    first, newline, _ = path.read_bytes().partition(b"\n")
    return int(json.loads(first)["parent"]) if newline else 0


def is_alive(pid: int) -> bool:
    """Whether a process runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True

"""The torture's worker processes: started, started again when they end, and all gone at the end."""

import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from redisjobs.events import ProcessEnded, ScheduleFired, recording
from redisjobs.events.recording import Line
from redisjobs.torture.fleet.process import DATABASE, LEASE, LIFELINE, OLD, OTHER_RULE, QUEUE, RECORDINGS
from redisjobs.torture.fleet.release import Release
from redisjobs.worker.supervisor import PROGRAM

GRACE = 1.0  # seconds that a worker's jobs may finish in
CONCURRENCY = 10
_LEAVE_WITHIN = 20.0  # seconds that a worker may take to end when asked: what the command line promises itself
_KILLED, _TERMINATED, _FAILED = "was killed by SIGKILL", "was killed by SIGTERM", "ended with code 1"
_AGAIN = 0.2  # seconds until a host that ended is started again


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of host.

    Attributes:
        db: Which of the databases its workers are in.
        options: More arguments of `redisjobs worker`.
        old: Whether it is of a release that lacks a job.
        processes: Worker processes it has; more than one are under a supervisor.
        leases: How long its workers' lease is, in leases of the fleet.
    """

    options: Sequence[str] = ()
    old: bool = False
    processes: int = 1
    db: int = 0
    leases: float = 1.0


LONGER = 1.5
"""Leases of the fleet that the lease of some of its workers lasts: as when a deploy changes it."""
HOSTS = (
    *(Kind(), Kind(("--no-schedules",), old=True, leases=LONGER), Kind(("--processes", "2"), processes=2)),
    *(Kind(db=1), Kind(db=1, leases=LONGER)),
)
"""What the fleet is made of: in the first database half of it is under a supervisor; in each are two leases.

All but one fire schedules, so in each database there are several schedulers.
"""


@dataclass(slots=True)
class Host:
    """One host: a worker process, or a supervisor with some.

    Attributes:
        kind: What it is.
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


@dataclass(slots=True)
class Fleet:
    """Worker processes on one queue. A context manager that ends them all.

    Attributes:
        urls: Where the queue is, in each database.
        queue: Its name.
        directory: For recordings and the log.
        lease: Seconds that the shorter of the workers' two leases lasts.
        rng: Chooses victims.
        kinds: What it is made of; those of databases that there aren't are left out.
        release: What they run.
        hosts: All of them.
        guests: Schedulers of a release that is rolled back.
        unasked: How each host that ended by itself did: what nobody killed must not end.
        victims: The processes that faults have killed.
        asked: The processes of hosts that were asked to end: one under such a supervisor may not have come so far
            as to listen yet.
    """

    urls: Sequence[str]
    queue: str
    directory: Path
    lease: float
    rng: random.Random
    kinds: Sequence[Kind] = HOSTS
    hosts: list[Host] = field(default_factory=list)
    guests: list["subprocess.Popen[bytes]"] = field(default_factory=list)
    unasked: list[str] = field(default_factory=list)
    victims: set[int] = field(default_factory=set)
    asked: set[int] = field(default_factory=set)
    release: Release = field(init=False)
    _closing: bool = False
    _ended: list[tuple[int, str]] = field(default_factory=list)  # by a fault or poison, as the recordings tell
    _lifeline: socket.socket | None = None
    _parents: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.kinds = [kind for kind in self.kinds if kind.db < len(self.urls)]
        self.release = Release(self.directory / "release")

    def __enter__(self) -> Self:
        # Nobody accepts: a connection lives in the backlog, and breaks when we end, however we do.
        self._lifeline = socket.create_server(("127.0.0.1", 0), backlog=4096)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for host in self.hosts:  # or a supervisor would replace what we kill
            _stop(host.process)
        left = {*self.pids(), *(pid for host in self.hosts for pid in children(host.process.pid))}
        for process in (*self.guests, *(host.process for host in self.hosts)):
            process.kill()
        for pid in left:
            _kill(pid)
        for process in (*self.guests, *(host.process for host in self.hosts)):
            process.wait()
        if self._lifeline is not None:
            self._lifeline.close()

    @property
    def longest_lease(self) -> float:
        """The longest lease of any worker, in seconds."""
        return self.lease * max(kind.leases for kind in self.kinds)

    def start(self) -> None:
        """Start all hosts."""
        self.hosts = [Host(kind, self._spawn(kind)) for kind in self.kinds]

    def _environment(self, kind: Kind) -> dict[str, str]:
        assert self._lifeline is not None
        environment = os.environ | {QUEUE: self.queue, RECORDINGS: str(self.directory)}
        environment |= {"REDISJOBS_URL": self.urls[kind.db]}  # not as an argument: it may hold a password
        environment |= {"PYTHONPATH": str(self.release.directory), DATABASE: str(kind.db)}
        lease = str(kind.leases * self.lease)
        environment |= {LIFELINE: str(self._lifeline.getsockname()[1]), LEASE: lease}
        return environment | ({OLD: "1"} if kind.old else {})

    def _spawn(self, kind: Kind) -> "subprocess.Popen[bytes]":
        lease = str(kind.leases * self.lease)
        command = [*PROGRAM, "worker", "redisjobs.torture.fleet.jobs:queue"]
        command += ["--log-level", "warning", "--lease", lease]
        command += ["--grace", str(GRACE), "--concurrency", str(CONCURRENCY)]
        return self._popen([*command, *kind.options], self._environment(kind))

    def _popen(self, command: Sequence[str], environment: dict[str, str]) -> "subprocess.Popen[bytes]":
        with open(self.directory / "workers.log", "ab") as log:
            return subprocess.Popen(
                command,
                env=environment,
                cwd=self.release.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C is for us to handle. Not a session of its own: if we are killed while one of them is
                # stopped by SIGSTOP, the kernel ends it, as the whole group then has nobody left.
                process_group=0,
            )

    def deploy(self, db: int) -> "subprocess.Popen[bytes]":
        """Start a scheduler of a release whose schedule has another rule; `tend` does not start it again."""
        environment = self._environment(Kind(db=db)) | {OTHER_RULE: "1"}
        command = [sys.executable, "-m", "redisjobs.torture.fleet.rolled_back"]
        self.guests.append(self._popen(command, environment))
        return self.guests[-1]

    def fired_by(self, pid: int) -> int:
        """How many times a process tells that it fired a schedule."""
        path = self.directory / f"{pid}.jsonl"
        return path.read_bytes().count(ScheduleFired.__name__.encode()) if path.exists() else 0

    def tend(self) -> None:
        """Start again what has ended."""
        for host in self.hosts:
            if host.again_at:
                if not self._closing and time.monotonic() >= host.again_at:
                    host.process, host.again_at = self._spawn(host.kind), 0.0
                    host.leaving = host.frozen = False
            elif (code := host.process.poll()) is not None:
                host.again_at = time.monotonic() + _AGAIN
                pid = host.process.pid
                if code in (-signal.SIGKILL, 1):
                    self._ended.append((pid, _FAILED if code == 1 else _KILLED))
                elif host.leaving and code not in (0, -signal.SIGTERM):
                    self.unasked.append(f"worker {pid} was asked to end, and did with code {code}")
                elif not host.leaving:
                    self.unasked.append(f"worker {pid} ended by itself with code {code}")

    def pids(self) -> list[int]:
        """The worker processes that live and have reached the point where jobs are known."""
        for path in self.directory.glob("*.jsonl"):
            pid = int(path.stem)
            if pid != os.getpid() and not self._parents.get(pid):
                self._parents[pid] = _parent(path)
        firsts = {host.process.pid: host for host in self.hosts if host.process.poll() is None}
        found = []
        for pid, parent in self._parents.items():
            if pid in firsts:
                if firsts[pid].kind.processes == 1:
                    found.append(pid)
            elif parent in firsts and _is_alive(pid):
                found.append(pid)
        return found

    def staying(self) -> list[int]:
        """The worker processes that nobody has asked to end."""
        return [pid for pid in self.pids() if not self.host_of(pid).leaving]

    def host_of(self, pid: int) -> Host:
        """The host that a worker process belongs to."""
        return next(host for host in self.hosts if host.process.pid in (pid, self._parents.get(pid)))

    def some_pid(self, *, supervised: bool) -> int | None:
        """A worker process, with a supervisor or without; None if there is none now."""
        able = []
        for pid in self.pids():
            host = self.host_of(pid)
            if not (host.frozen or host.leaving) and supervised == (host.kind.processes > 1):
                able.append(pid)
        return self.rng.choice(sorted(able)) if able else None

    def some_host(self, *, supervised: bool = False) -> Host | None:
        """A host that runs; None if there is none now."""
        able = [
            host
            for host in self.hosts
            if not (host.frozen or host.leaving or host.again_at) and supervised <= (host.kind.processes > 1)
        ]
        return self.rng.choice(able) if able else None

    @property
    def complete(self) -> bool:
        """Whether all worker processes are there."""
        return len(self.pids()) >= sum(kind.processes for kind in self.kinds)

    def members(self, host: Host) -> list[int]:
        """The worker processes of a host."""
        return [pid for pid in self.pids() if self.host_of(pid) is host]

    def stop(self, host: Host) -> None:
        """Ask a host to end, as a deploy does."""
        host.leaving = True
        self.asked.add(host.process.pid)
        host.process.terminate()

    def dismiss(self) -> None:
        """Stop all as a deploy would, and wait until they have ended; `unasked` tells of those that did not."""
        self._closing = True
        for host in self.hosts:
            if host.process.poll() is None:
                self.stop(host)
        end = time.monotonic() + _LEAVE_WITHIN
        for host in self.hosts:
            try:
                host.process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                self.unasked.append(
                    f"worker {host.process.pid} was asked to end and did not in {_LEAVE_WITHIN:g} s"
                )
        self.tend()

    def complaints(self) -> list[str]:
        """Which processes ended and should not have: any end but that of one which a fault or poison killed."""
        ends, expected = list(self._ended), {(pid, _KILLED) for pid in self.victims}
        for line in recording.read(self.directory):
            if line["what"] == "start" and line["name"] == "Poison":
                expected |= {(line["pid"], _KILLED), (line["pid"], _FAILED)}
            elif line["what"] == ProcessEnded.__name__ and not self._was_asked(line):
                ends.append((line["ended"], line["how"]))
        return [f"worker process {pid} {how}" for pid, how in ends if (pid, how) not in expected]

    def _was_asked(self, ended: Line) -> bool:
        """Whether a process under a supervisor ended as it was asked to, or was killed by being asked so early."""
        is_early = ended["how"] == _TERMINATED and ended["pid"] in self.asked
        return bool(ended["expected"] and (ended["in_order"] or is_early))

    def log_end(self) -> str:
        """The end of what the workers logged."""
        path = self.directory / "workers.log"
        return path.read_text("utf-8", "replace")[-3000:] if path.exists() else ""


def children(pid: int) -> list[int]:
    """The processes that a process has started and not yet reaped; none known where there is no /proc."""
    with suppress(FileNotFoundError):
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    return []


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Stop a process of ours; on Linux it does nothing more when this returns."""
    process.send_signal(signal.SIGSTOP)
    if sys.platform == "linux" and process.returncode is None:
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)


def _kill(pid: int) -> None:
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


def _parent(path: Path) -> int:
    """Who started the process of a recording, which says it in its first line."""
    first, newline, _ = path.read_bytes().partition(b"\n")
    return int(json.loads(first)["parent"]) if newline else 0


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True

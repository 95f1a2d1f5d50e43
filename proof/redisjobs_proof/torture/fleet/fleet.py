"""Starts the torture's worker processes, restarts those that end, and ends all of them at the end."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from redisjobs.errors import DriverError
from redisjobs.events import ProcessEnded, recording
from redisjobs.events.recording import Line
from redisjobs.worker.supervisor import PROGRAM
from redisjobs_proof.torture.fleet.hosts import HOSTS, Host, Kind, children, freeze, is_alive, kill, parent_of
from redisjobs_proof.torture.fleet.process import (
    DATABASE,
    LEASE,
    LIFELINE,
    OLD,
    OTHER_RULE,
    PROXIES,
    QUEUE,
    RECORDINGS,
)
from redisjobs_proof.torture.fleet.release import Release

GRACE = 1.0  # seconds in which a stopped worker's jobs may finish
CONCURRENCY = 10
_LEAVE_WITHIN = 20.0  # seconds that a worker may take to end when asked, as the command line promises
_KILLED, _TERMINATED, _FAILED = "was killed by SIGKILL", "was killed by SIGTERM", "ended with code 1"
_MIGRATED_WITHIN = 30.0  # seconds
_AGAIN = 0.2  # seconds until we start a host again that has ended


@dataclass(slots=True)
class Fleet:
    """Worker processes on one queue. A context manager that ends them all.

    Attributes:
        urls: The URL of the queue in each database.
        directory: For recordings and the log.
        lease: The shorter of the workers' two leases, in seconds.
        rng: Chooses victims.
        proxies: The proxies in front of a topology's servers, as `detour` reads them.
        schedulers: The schedulers of releases that are rolled back.
        unasked: The hosts that ended though no fault ended them, in words.
        victims: The processes that faults have killed.
        asked: The first processes of hosts that were asked to end.
    """

    urls: Sequence[str]
    queue: str
    directory: Path
    lease: float
    rng: random.Random
    kinds: Sequence[Kind] = HOSTS
    proxies: str = ""
    hosts: list[Host] = field(default_factory=list)
    schedulers: list["subprocess.Popen[bytes]"] = field(default_factory=list)
    unasked: list[str] = field(default_factory=list)
    victims: set[int] = field(default_factory=set)
    asked: set[int] = field(default_factory=set)
    release: Release = field(init=False)
    _closing: bool = False
    _ended: list[tuple[int, str]] = field(default_factory=list)  # to be explained by a fault, or by poison
    _lifeline: socket.socket | None = None
    _parents: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.kinds = [kind for kind in self.kinds if kind.db < len(self.urls)]
        self.release = Release(self.directory / "release")

    def __enter__(self) -> Self:
        # Nothing accepts these connections. They break when this process ends, even if it is killed.
        self._lifeline = socket.create_server(("127.0.0.1", 0), backlog=4096)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for host in self.hosts:  # else a supervisor would replace the workers that we kill
            freeze(host.process)
        left = {*self.pids(), *(pid for host in self.hosts for pid in children(host.process.pid))}
        for process in (*self.schedulers, *(host.process for host in self.hosts)):
            process.kill()
        for pid in left:
            kill(pid)
        for process in (*self.schedulers, *(host.process for host in self.hosts)):
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
        environment |= {PROXIES: self.proxies}
        return environment | ({OLD: "1"} if kind.old else {})

    def _spawn(self, kind: Kind) -> "subprocess.Popen[bytes]":
        lease = str(kind.leases * self.lease)
        command = [*PROGRAM, "worker", "redisjobs_proof.torture.fleet.jobs:queue"]
        command += ["--log-level", "warning", "--lease", lease]
        command += ["--grace", str(GRACE), "--concurrency", str(CONCURRENCY)]
        return self._popen([*command, *kind.options], self._environment(kind))

    def _popen(
        self, command: Sequence[str], environment: dict[str, str], directory: Path | None = None
    ) -> "subprocess.Popen[bytes]":
        with open(self.directory / "workers.log", "ab") as log:
            return subprocess.Popen(
                command,
                env=environment,
                cwd=directory or self.release.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # The torture handles Ctrl-C. Not a new session: if the torture is killed while a worker is
                # stopped by SIGSTOP, the kernel ends the orphaned group.
                process_group=0,
            )

    def deploy(self, db: int) -> "subprocess.Popen[bytes]":
        """Start a scheduler of a release whose schedule has another rule; `tend` does not start it again."""
        environment = self._environment(Kind(db=db)) | {OTHER_RULE: "1"}
        command = [sys.executable, "-m", "redisjobs_proof.torture.fleet.rolled_back"]
        self.schedulers.append(self._popen(command, environment))
        return self.schedulers[-1]

    def migrate(self, url: str, release: Path | None = None) -> None:
        """Bring a database to a release, by default to that of the workers; see `migrating`."""
        command = [sys.executable, "-m", "redisjobs_proof.torture.fleet.migrating"]
        environment = os.environ | {"REDISJOBS_URL": url, "PYTHONPATH": str(release or self.release.directory)}
        process = self._popen(command, environment, release)
        if process.wait(_MIGRATED_WITHIN):
            raise DriverError(f"a migration failed:\n{self.log_end()}")

    def tend(self) -> None:
        """Start hosts again that have ended; note those that no fault had ended."""
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
        """Return the living worker processes that have imported the jobs."""
        for path in self.directory.glob("*.jsonl"):
            pid = int(path.stem)
            if pid != os.getpid() and not self._parents.get(pid):
                self._parents[pid] = parent_of(path)
        firsts = {host.process.pid: host for host in self.hosts if host.process.poll() is None}
        found = []
        for pid, parent in self._parents.items():
            if pid in firsts:
                if firsts[pid].kind.processes == 1:
                    found.append(pid)
            elif parent in firsts and is_alive(pid):
                found.append(pid)
        return found

    def staying(self) -> list[int]:
        """Return the worker processes that were not asked to end."""
        return [pid for pid in self.pids() if not self.host_of(pid).leaving]

    def host_of(self, pid: int) -> Host:
        """Return the host of a worker process."""
        return next(host for host in self.hosts if host.process.pid in (pid, self._parents.get(pid)))

    def some_pid(self, *, supervised: bool) -> int | None:
        """Return a random worker process, with a supervisor or without; None if there is none now."""
        able = []
        for pid in self.pids():
            host = self.host_of(pid)
            if not (host.frozen or host.leaving) and supervised == (host.kind.processes > 1):
                able.append(pid)
        return self.rng.choice(sorted(able)) if able else None

    def some_host(self, *, supervised: bool = False) -> Host | None:
        """Return a random host that runs; None if there is none now."""
        able = [
            host
            for host in self.hosts
            if not (host.frozen or host.leaving or host.again_at) and supervised <= (host.kind.processes > 1)
        ]
        return self.rng.choice(able) if able else None

    @property
    def complete(self) -> bool:
        """Whether all worker processes run."""
        return len(self.pids()) >= sum(kind.processes for kind in self.kinds)

    def members(self, host: Host) -> list[int]:
        """Return the worker processes of a host."""
        return [pid for pid in self.pids() if self.host_of(pid) is host]

    def thaw(self) -> None:
        """Note that no host is frozen any more."""
        for host in self.hosts:
            host.frozen = False

    def stop(self, host: Host) -> None:
        """Ask a host to end, as a deploy does."""
        host.leaving = True
        self.asked.add(host.process.pid)
        host.process.terminate()

    def dismiss(self) -> None:
        """Stop all hosts as a deploy does, and wait; hosts that do not end are added to `unasked`."""
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
        """Return the processes that ended though neither a fault nor poison killed them, in words."""
        ends, expected = list(self._ended), {(pid, _KILLED) for pid in self.victims}
        told = list(recording.read(self.directory))
        for line in told:
            if line["what"] == "start" and line["name"] == "Poison":
                expected |= {(line["pid"], _KILLED), (line["pid"], _FAILED)}
        for line in told:
            if line["what"] == ProcessEnded.__name__ and not _was_asked(line, self.asked):
                ends.append((line["ended"], line["how"]))
                if line["expected"] and ends[-1] in expected:  # its supervisor was asked to end, and says so
                    expected.add((line["pid"], _FAILED))
        return [f"worker process {pid} {how}" for pid, how in ends if (pid, how) not in expected]

    def log_end(self) -> str:
        """Return the end of the workers' log."""
        path = self.directory / "workers.log"
        return path.read_text("utf-8", "replace")[-3000:] if path.exists() else ""


def _was_asked(ended: Line, asked: Collection[int]) -> bool:
    """Whether a process under a supervisor ended because it was asked to, maybe before it handled SIGTERM."""
    is_early = ended["how"] == _TERMINATED and ended["pid"] in asked
    return bool(ended["expected"] and (ended["in_order"] or is_early))

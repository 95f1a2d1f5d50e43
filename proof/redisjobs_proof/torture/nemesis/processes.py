"""Faults of processes: killed, frozen, stopped, replaced."""

import json
import os
import signal
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import ClassVar

from redisjobs.events import ScheduleFired
from redisjobs.model.job import Priority
from redisjobs_proof.torture.fleet import flows, jobs
from redisjobs_proof.torture.fleet.fleet import GRACE
from redisjobs_proof.torture.fleet.hosts import HOSTS
from redisjobs_proof.torture.fleet.rules import is_of_other_rule
from redisjobs_proof.torture.nemesis.fault import Fault, System

HELD = 10
"""How many jobs of a whole lease to push, so that the worker that is hit holds one."""


class ProcessFault(Fault):
    """A fault of worker processes while they hold jobs."""

    recovery = "jobs"
    hits = "pids"

    @property
    def happened(self) -> bool:  # noqa: D102
        return bool(self.pids)

    def is_possible_now(self, system: System) -> bool:  # noqa: D102
        return system.fleet.complete

    def prepare(self, system: System) -> None:  # noqa: D102
        for _ in range(HELD):
            system.push(jobs.Work(system.lease))


class KillWorker(ProcessFault):
    """SIGKILL of a worker process without a supervisor."""

    name = "worker killed"
    holds = 1.0
    supervised: ClassVar[bool] = False

    def begin(self, system: System) -> None:  # noqa: D102
        pid = system.fleet.some_pid(supervised=self.supervised)
        if pid is not None:
            system.fleet.victims.add(pid)
            os.kill(pid, signal.SIGKILL)
            self.pids, self.detail = [pid], f"process {pid}"


class KillChild(KillWorker):
    """SIGKILL of a worker process under a supervisor."""

    name = "child killed"
    releases_at_once = True
    supervised = True


class KillParent(ProcessFault):
    """SIGKILL of a worker process between two calls that add children of one of its jobs."""

    name = "parent killed"
    holds = 1.0

    @property
    def happened(self) -> bool:  # noqa: D102
        return bool(self.pids)

    def prepare(self, system: System) -> None:  # noqa: D102
        self.store = system.some_store()

    def begin(self, system: System) -> None:  # noqa: D102
        self.parent = system.push(flows.Crowd(), self.store, priority=Priority.HIGH)

    def keep(self, system: System) -> None:
        """Kill it once the first of its children is there: it pauses then."""
        if self.pids or self.store.queue.get(flows.child_id(self.parent, 0)) is None:
            return
        parent = self.store.queue.get(self.parent)
        pids = [pid for pid in system.fleet.pids() if parent is not None and f":{pid}:" in parent.worker]
        for pid in pids:
            system.fleet.victims.add(pid)
            os.kill(pid, signal.SIGKILL)
            self.releases_at_once = system.fleet.host_of(pid).kind.processes > 1
            self.detail = f"process {pid}, with job {self.parent}"
        self.pids = pids


class KillHost(ProcessFault):
    """SIGKILL of a supervisor and all its workers at once, as when a machine dies."""

    name = "host killed"
    holds = 1.0

    @classmethod
    def possible(cls, system: System) -> bool:  # noqa: D102
        return any(kind.processes > 1 for kind in HOSTS)

    def begin(self, system: System) -> None:  # noqa: D102
        host = system.fleet.some_host(supervised=True)
        if host is not None:
            self.pids = system.fleet.members(host)
            system.fleet.victims |= {host.process.pid, *self.pids}
            for pid in (host.process.pid, *self.pids):
                send(pid, signal.SIGKILL)
            self.detail = f"supervisor {host.process.pid} and {len(self.pids)} workers"


class FreezeWorker(ProcessFault):
    """SIGSTOP of a worker until it is fenced, then SIGCONT.

    Never of one with a supervisor: if the torture is killed meanwhile, the kernel would not end that process.
    """

    name = "worker frozen"
    in_leases = 1.9

    def begin(self, system: System) -> None:  # noqa: D102
        pid = system.fleet.some_pid(supervised=False)
        if pid is not None:
            system.fleet.host_of(pid).frozen = True
            os.kill(pid, signal.SIGSTOP)
            self.pids, self.detail = [pid], f"process {pid}"
            store, self.silent = system.workers_of(pid)
            self.db = store.db

    def end(self, system: System) -> None:  # noqa: D102
        for pid in self.pids:
            send(pid, signal.SIGCONT)
        system.fleet.thaw()


class FreezeInTurn(ProcessFault):
    """SIGSTOP of one of the two workers of the last database; then of the other, and SIGCONT of the first.

    So no scheduler runs for a while. When the first worker goes on, it finds slots that were not fired.
    """

    name = "frozen in turn"
    holds = 3.0
    OTHER, FIRST_GOES_ON = 1.2, 2.5  # seconds from the beginning; a slot lies between them

    @classmethod
    def possible(cls, system: System) -> bool:  # noqa: D102
        return len(system.stores) > 1

    def begin(self, system: System) -> None:  # noqa: D102
        pids = [pid for pid in system.fleet.pids() if system.fleet.host_of(pid).kind.db == system.stores[-1].db]
        hosts = [system.fleet.host_of(pid) for pid in pids]
        if len(pids) != 2 or any(host.frozen or host.leaving for host in hosts):
            return
        for host in hosts:
            host.frozen = True
        self.pids, self.db = system.rng.sample(sorted(pids), 2), system.stores[-1].db
        self.detail = f"processes {self.pids[0]} and {self.pids[1]}"
        self.began = time.monotonic()
        self.to_come = [
            (self.OTHER, self.pids[1], signal.SIGSTOP),
            (self.FIRST_GOES_ON, self.pids[0], signal.SIGCONT),
        ]
        send(self.pids[0], signal.SIGSTOP)

    def keep(self, system: System) -> None:  # noqa: D102
        while self.pids and self.to_come and time.monotonic() >= self.began + self.to_come[0][0]:
            _, pid, number = self.to_come.pop(0)
            send(pid, number)

    def end(self, system: System) -> None:  # noqa: D102
        for pid in self.pids:
            send(pid, signal.SIGCONT)
        system.fleet.thaw()


class StopWorker(ProcessFault):
    """SIGTERM of a host, as in a deploy; then it is started again."""

    name = "worker stopped"
    holds = 2.0
    reaches = GRACE + 2.0
    grace = GRACE

    def begin(self, system: System) -> None:  # noqa: D102
        host = system.fleet.some_host()
        if host is not None:
            self.pids = system.fleet.members(host)
            system.fleet.stop(host)
            self.detail = f"process {host.process.pid}"


class AskToStop(StopWorker):
    """An operator stops all workers of a host by their ids; then it is started again."""

    name = "worker asked to stop"

    def begin(self, system: System) -> None:  # noqa: D102
        self.host = host = system.fleet.some_host()
        if host is not None:
            host.leaving = True
            self.pids = system.fleet.members(host)
            for pid in self.pids:
                store, ids = system.workers_of(pid)
                for worker in ids:
                    store.queue.control.stop_worker(worker)
            self.detail = f"process {host.process.pid}"

    def end(self, system: System) -> None:  # noqa: D102
        if self.host is not None:
            # In case a worker had got a new id just then, or a child came meanwhile.
            self.pids = sorted({*self.pids, *system.fleet.members(self.host)})
            system.fleet.stop(self.host)


class QuietWorker(ProcessFault):
    """A worker is quiet while its jobs go on; then it claims again."""

    name = "worker quiet"
    holds = 1.5
    hits = ""
    recovery = "workers"

    def begin(self, system: System) -> None:  # noqa: D102
        if pids := system.fleet.staying():
            self.pids = [system.rng.choice(sorted(pids))]
            store, ids = system.workers_of(self.pids[0])
            self.db, self.detail = store.db, f"process {self.pids[0]}"
            for worker in ids:
                store.queue.control.quiet_worker(worker)

    def end(self, system: System) -> None:  # noqa: D102
        for pid in self.pids:
            if pid in system.fleet.pids():
                store, ids = system.workers_of(pid)
                for worker in ids:
                    store.queue.control.resume_worker(worker)


class UpgradeInPlace(ProcessFault):
    """A new release replaces the running one on disk; then a host of the old release is stopped."""

    name = "upgrade in place"
    holds = 2.0
    reaches = GRACE + 2.0
    grace = GRACE
    alone = True  # a process that starts at that moment would find half of each release

    def begin(self, system: System) -> None:  # noqa: D102
        host = system.fleet.some_host()
        if host is None:
            return
        scripts = system.fleet.release.upgrade()
        self.pids = system.fleet.members(host)
        system.fleet.stop(host)
        self.detail = f"scripts are now in {scripts}/; process {host.process.pid} is stopped"


class RollBack(Fault):
    """A release whose schedule has another rule is deployed beside the workers, then stopped or killed.

    It runs no jobs. Its rule counts from its start on; once it is gone, that of the workers counts again. It ends
    only after it has fired some slots by its rule, even if it starts late: else this fault would test nothing.
    """

    name = "release rolled back"
    holds = 3.0
    SLOTS = 3

    def begin(self, system: System) -> None:  # noqa: D102
        self.db = system.some_store().db
        self.scheduler = system.fleet.deploy(self.db)
        self.is_killed = system.rng.random() < 0.5
        self.detail = f"scheduler {self.scheduler.pid}, {'killed' if self.is_killed else 'stopped'} in the end"
        system.late.append(lambda: self.roll_back(system))

    def roll_back(self, system: System) -> bool:
        """End the scheduler once it has fired; return whether it has ended, or is about to."""
        if (code := self.scheduler.poll()) is not None:
            system.fleet.unasked.append(f"scheduler {self.scheduler.pid} ended by itself with code {code}")
            return True
        if _fired_by(system.fleet.directory / f"{self.scheduler.pid}.jsonl") < self.SLOTS:
            return False
        self.scheduler.send_signal(signal.SIGKILL if self.is_killed else signal.SIGTERM)
        return True


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process, unless it has ended."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _fired_by(recording: Path) -> int:
    """Return how many times a process recorded that it fired slots of `OTHER_RULE`."""
    whole, _, _ = recording.read_bytes().rpartition(b"\n") if recording.exists() else (b"", b"", b"")
    lines = map(json.loads, whole.splitlines())
    fired = (line["slot"] for line in lines if line["what"] == ScheduleFired.__name__)
    return sum(is_of_other_rule(datetime.fromisoformat(slot)) for slot in fired)

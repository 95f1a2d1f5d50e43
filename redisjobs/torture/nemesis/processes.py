"""Faults of processes: killed, frozen, stopped, replaced."""

import os
import signal
import time
from contextlib import suppress
from typing import ClassVar

from redisjobs.torture.fleet import jobs
from redisjobs.torture.fleet.fleet import GRACE, HOSTS
from redisjobs.torture.nemesis.fault import Fault, System

IN_HAND = 10
"""Jobs that take a whole lease, so that whoever is hit has one in hand."""


class ProcessFault(Fault):
    """Something that happens to worker processes while they have jobs in hand."""

    recovery = "jobs"
    hits = "pids"

    @property
    def happened(self) -> bool:  # noqa: D102
        return bool(self.pids)

    def is_possible_now(self, system: System) -> bool:  # noqa: D102
        return system.fleet.complete

    def prepare(self, system: System) -> None:  # noqa: D102
        for _ in range(IN_HAND):
            system.push(jobs.Work(system.lease))


class KillWorker(ProcessFault):
    """SIGKILL of a worker process that nobody watches."""

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
    """SIGKILL of a worker process under its supervisor's eyes."""

    name = "child killed"
    hands_on = True
    supervised = True


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
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.detail = f"supervisor {host.process.pid} and {len(self.pids)} workers"


class FreezeWorker(ProcessFault):
    """SIGSTOP of a worker for so much longer than its lease that it is fenced meanwhile, then SIGCONT.

    Of none that has a supervisor: should we be killed meanwhile, the kernel would not see to that one's end.
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
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
            for host in system.fleet.hosts:
                host.frozen = False


class FreezeInTurn(ProcessFault):
    """SIGSTOP of one of the last database's two workers; then of the other, and SIGCONT of the first.

    So the first goes on when a slot is due that nobody has fired: to it all slots since it was stopped are due.
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
        _send(self.pids[0], signal.SIGSTOP)

    def keep(self, system: System) -> None:  # noqa: D102
        while self.pids and self.to_come and time.monotonic() >= self.began + self.to_come[0][0]:
            _, pid, number = self.to_come.pop(0)
            _send(pid, number)

    def end(self, system: System) -> None:  # noqa: D102
        for pid in self.pids:
            _send(pid, signal.SIGCONT)
        for host in system.fleet.hosts:
            host.frozen = False


class StopWorker(ProcessFault):
    """SIGTERM of a host, as a deploy does; another is started."""

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


class UpgradeInPlace(ProcessFault):
    """Another release takes the place of the one that runs, on the disk; then a host of the old one is stopped."""

    name = "upgrade in place"
    holds = 2.0
    reaches = GRACE + 2.0
    grace = GRACE
    alone = True  # whoever starts in that very moment finds half of one and half of the other

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

    It runs no jobs. Its rule counts from its start, and that of the workers again once it is gone. However long it
    takes to start, it ends only after it has fired some slots: else nothing would have been tried.
    """

    name = "release rolled back"
    holds = 3.0
    SLOTS = 3

    def begin(self, system: System) -> None:  # noqa: D102
        self.db = system.some_store().db
        self.guest = system.fleet.deploy(self.db)
        self.is_killed = system.rng.random() < 0.5
        self.detail = f"scheduler {self.guest.pid}, {'killed' if self.is_killed else 'stopped'} in the end"
        system.late.append(lambda: self.roll_back(system))

    def roll_back(self, system: System) -> bool:
        """End it, once it has fired; whether it has ended, or is about to."""
        if (code := self.guest.poll()) is not None:
            system.fleet.unasked.append(f"scheduler {self.guest.pid} ended by itself with code {code}")
            return True
        if system.fleet.fired_by(self.guest.pid) < self.SLOTS:
            return False
        self.guest.send_signal(signal.SIGKILL if self.is_killed else signal.SIGTERM)
        return True


def _send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)

"""Faults of processes: killed, frozen, stopped, replaced."""

import os
import signal
from contextlib import suppress
from typing import ClassVar

from redisjobs.torture import jobs
from redisjobs.torture.fleet import GRACE, HOSTS
from redisjobs.torture.nemesis.fault import Fault, Field

IN_HAND = 10
"""Jobs that take a whole lease, so that whoever is hit has one in hand."""


class ProcessFault(Fault):
    """Something that happens to worker processes while they have jobs in hand."""

    recovery = "jobs"
    hits = "pids"

    @property
    def happened(self) -> bool:  # noqa: D102
        return bool(self.pids)

    def is_possible_now(self, field: Field) -> bool:  # noqa: D102
        return field.fleet.complete

    def prepare(self, field: Field) -> None:  # noqa: D102
        for _ in range(IN_HAND):
            field.push(jobs.Work(field.lease))


class KillWorker(ProcessFault):
    """SIGKILL of a worker process that nobody watches."""

    name = "worker killed"
    holds = 1.0
    supervised: ClassVar[bool] = False

    def begin(self, field: Field) -> None:  # noqa: D102
        pid = field.fleet.some_pid(supervised=self.supervised)
        if pid is not None:
            field.fleet.victims.add(pid)
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
    def possible(cls, field: Field) -> bool:  # noqa: D102
        return any(kind.processes > 1 for kind in HOSTS)

    def begin(self, field: Field) -> None:  # noqa: D102
        host = field.fleet.some_host(supervised=True)
        if host is not None:
            self.pids = field.fleet.members(host)
            field.fleet.victims |= {host.process.pid, *self.pids}
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

    def begin(self, field: Field) -> None:  # noqa: D102
        pid = field.fleet.some_pid(supervised=False)
        if pid is not None:
            field.fleet.host_of(pid).frozen = True
            os.kill(pid, signal.SIGSTOP)
            self.pids, self.detail = [pid], f"process {pid}"
            store, self.silent = field.workers_of(pid)
            self.db = store.db

    def end(self, field: Field) -> None:  # noqa: D102
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
            for host in field.fleet.hosts:
                host.frozen = False


class StopWorker(ProcessFault):
    """SIGTERM of a host, as a deploy does; another is started."""

    name = "worker stopped"
    holds = 2.0
    reaches = GRACE + 2.0
    grace = GRACE

    def begin(self, field: Field) -> None:  # noqa: D102
        host = field.fleet.some_host()
        if host is not None:
            self.pids = field.fleet.members(host)
            field.fleet.stop(host)
            self.detail = f"process {host.process.pid}"


class UpgradeInPlace(ProcessFault):
    """Another release takes the place of the one that runs, on the disk; then a host of the old one is stopped."""

    name = "upgrade in place"
    holds = 2.0
    reaches = GRACE + 2.0
    grace = GRACE
    alone = True  # whoever starts in that very moment finds half of one and half of the other

    def begin(self, field: Field) -> None:  # noqa: D102
        host = field.fleet.some_host()
        if host is None:
            return
        scripts = field.fleet.release.upgrade()
        self.pids = field.fleet.members(host)
        field.fleet.stop(host)
        self.detail = f"scripts are now in {scripts}/; process {host.process.pid} is stopped"

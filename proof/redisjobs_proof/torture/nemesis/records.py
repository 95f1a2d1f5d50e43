"""Faults that delete what Redis knows about a worker."""

import os
import signal
from abc import abstractmethod

from redisjobs.drivers.redis.commands import GROUP
from redisjobs_proof.torture.fleet import jobs
from redisjobs_proof.torture.fleet.redis_store import on_redis
from redisjobs_proof.torture.fleet.store import Store
from redisjobs_proof.torture.nemesis.fault import System
from redisjobs_proof.torture.nemesis.processes import HELD, ProcessFault


class RecordFault(ProcessFault):
    """A fault that deletes something about a worker that holds jobs.

    Attributes:
        store: The worker's queue.
    """

    holds = 2.0
    store: Store

    def prepare(self, system: System) -> None:  # noqa: D102
        for store in system.stores:
            for _ in range(2 * HELD):
                system.push(jobs.Work(system.lease), store)

    def begin(self, system: System) -> None:  # noqa: D102
        pid = system.fleet.some_pid(supervised=False)
        if pid is None:
            return
        self.store, workers = system.workers_of(pid)
        if workers:
            self.db = self.store.db
            self.harm(system, pid, workers[0])
            self.detail = f"{workers[0]}, process {pid}"

    @abstractmethod
    def harm(self, system: System, pid: int, worker: str) -> None:
        """Delete something of one worker."""


class DeleteRecord(RecordFault):
    """DEL of a worker's record: from then on Redis refuses the worker, and others release its jobs."""

    name = "record deleted"
    releases_at_once = True

    def harm(self, system: System, pid: int, worker: str) -> None:  # noqa: D102
        self.pids = [pid]
        store = on_redis(self.store)
        store.run("DEL", f"{store.prefix}worker:{worker}")
        system.note("fenced", worker=worker, db=store.db)


class RemoveConsumer(RecordFault):
    """XGROUP DELCONSUMER of a living worker: Redis drops its leases, and `restore` finds the jobs.

    Workers look once a minute; here we make that come soon.
    """

    name = "consumer removed"
    releases_at_once = True
    forgets_deliveries = True

    def harm(self, system: System, pid: int, worker: str) -> None:  # noqa: D102
        self.pids = [pid]
        store = on_redis(self.store)
        for stream in store.streams:
            store.run("XGROUP", "DELCONSUMER", stream, GROUP, worker)

    def keep(self, system: System) -> None:  # noqa: D102
        if self.pids:
            self.store.tidy()


class ForgetWorkers(RecordFault):
    """ZREM of a living worker, or DEL of the key of all workers: the next heartbeat of each adds it again."""

    name = "workers forgotten"
    hits = ""
    recovery = "workers"

    @property
    def happened(self) -> bool:  # noqa: D102
        return bool(self.detail)

    def harm(self, system: System, pid: int, worker: str) -> None:  # noqa: D102
        store = on_redis(self.store)
        key = f"{store.prefix}workers"
        if system.rng.random() < 0.5:
            store.run("ZREM", key, worker)
        else:
            store.run("DEL", key)


class LoseRecord(RecordFault):
    """SIGKILL of a worker whose record is deleted, as after a failover. `tidy` finds the jobs that it held.

    Workers tidy once a minute; here we make that come soon.
    """

    name = "record lost"
    releases_at_once = True

    def harm(self, system: System, pid: int, worker: str) -> None:  # noqa: D102
        system.fleet.victims.add(pid)
        os.kill(pid, signal.SIGKILL)
        self.pids = [pid]
        store = on_redis(self.store)
        store.run("DEL", f"{store.prefix}worker:{worker}")
        store.run("ZREM", f"{store.prefix}workers", worker)

    def keep(self, system: System) -> None:  # noqa: D102
        if self.pids:
            self.store.tidy()

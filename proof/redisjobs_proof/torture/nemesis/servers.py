"""Faults of the server and of its data."""

import os
import signal
import time

from redisjobs.drivers.redis.commands import GROUP
from redisjobs_proof.torture.fleet import jobs
from redisjobs_proof.torture.fleet.redis_store import on_redis
from redisjobs_proof.torture.nemesis.fault import Fault, System
from redisjobs_proof.torture.nemesis.processes import HELD, ProcessFault


class _ServerFault(Fault):
    recovery = "workers"

    @classmethod
    def possible(cls, system: System) -> bool:
        return system.own is not None


class KillServer(_ServerFault):
    """SIGKILL of the server, which starts again from its append-only file."""

    name = "server killed"
    holds = 1.5
    hits = "all"
    reaches = 1.0  # the longest pause between two tries

    @classmethod
    def possible(cls, system: System) -> bool:  # noqa: D102
        # In a topology `owner killed` takes its place: there another server takes over.
        return super().possible(system) and system.topology is None

    def begin(self, system: System) -> None:  # noqa: D102
        assert system.own is not None
        system.own.kill()

    def end(self, system: System) -> None:  # noqa: D102
        assert system.own is not None
        system.own.restart()


class KillClients(_ServerFault):
    """CLIENT KILL of every connection, including those that listen."""

    name = "clients killed"
    holds = 0.3
    unsteady = True

    def begin(self, system: System) -> None:  # noqa: D102
        killed = 0
        for kind in ("normal", "pubsub"):
            killed += on_redis(system.store).run("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
        self.detail = f"{killed} connections"


class KillListeners(_ServerFault):
    """CLIENT KILL of every connection that listens, and of no other: notifications are lost meanwhile."""

    name = "listeners killed"
    holds = 0.3

    def begin(self, system: System) -> None:  # noqa: D102
        killed = on_redis(system.store).run("CLIENT", "KILL", "TYPE", "pubsub")
        self.detail = f"{killed} connections"


class FlushScripts(_ServerFault):
    """SCRIPT FLUSH, again and again."""

    name = "scripts flushed"
    holds = 1.0

    def begin(self, system: System) -> None:  # noqa: D102
        self.keep(system)

    def keep(self, system: System) -> None:  # noqa: D102
        on_redis(system.store).run("SCRIPT", "FLUSH")


class SqueezeMemory(_ServerFault):
    """A memory limit below the memory in use: no push succeeds, not even by a handler; everything else goes on."""

    name = "memory full"
    holds = 3.0

    def prepare(self, system: System) -> None:  # noqa: D102
        for _ in range(4):  # these try to end while the server is full, again and again until it is not
            system.push(jobs.Parent(system.rng.uniform(0.5, 2.5)))

    def begin(self, system: System) -> None:  # noqa: D102
        on_redis(system.store).run("CONFIG", "SET", "maxmemory", "100kb")

    def end(self, system: System) -> None:  # noqa: D102
        on_redis(system.store).run("CONFIG", "SET", "maxmemory", "0")


class LimitRequests(_ServerFault):
    """The server takes no request larger than 1 MB, as some are set up: it refuses what has such a result, whole.

    Other jobs, whose outcomes go in the same call, have to end. One that can't be written becomes a dead letter.
    """

    name = "requests limited"
    holds = 4.0
    LIMITED, NOT = "1048576", {"proto-max-bulk-len": "536870912", "client-query-buffer-limit": "1073741824"}

    def begin(self, system: System) -> None:  # noqa: D102
        self.option = system.rng.choice(sorted(self.NOT))
        on_redis(system.store).run("CONFIG", "SET", self.option, self.LIMITED)
        for store in system.stores:
            for size in (1_000, 1_500_000, 2_500_000, 700_000, 700_000, 700_000):
                self.jobs.append(system.push(jobs.Bulky(size), store, keep_result=jobs.KEPT))
            for _ in range(HELD):
                system.push(jobs.Work(0.05), store)
        self.detail = self.option

    def end(self, system: System) -> None:  # noqa: D102
        on_redis(system.store).run("CONFIG", "SET", self.option, self.NOT[self.option])


class DestroyGroup(Fault):
    """XGROUP DESTROY: Redis forgets all leases and reads, and delivers all jobs again."""

    name = "group destroyed"
    hits = "all"
    recovery = "workers"
    releases_at_once = True
    forgets_deliveries = True

    def prepare(self, system: System) -> None:  # noqa: D102
        self.target = on_redis(system.some_store())
        self.db = self.target.db
        for _ in range(HELD):
            system.push(jobs.Work(system.lease), self.target)

    def begin(self, system: System) -> None:  # noqa: D102
        streams = self.target.streams if system.rng.random() < 0.5 else self.target.streams[1:2]
        for stream in streams:
            self.target.run("XGROUP", "DESTROY", stream, GROUP)
        self.detail = f"of {len(streams)} streams"


class SetClockAhead(ProcessFault):
    """The server's clock is set ahead by more than a lease, then back; at the same time a worker is killed.

    No other worker may lose a job. The killed worker has to be fenced before the clock is set back.
    """

    name = "clock set ahead"
    in_leases = 2.5
    unsteady = True
    alone = True  # the check of waits knows only the effect of this fault by itself

    def begin(self, system: System) -> None:  # noqa: D102
        pid = system.fleet.some_pid(supervised=False)
        if pid is not None:
            seconds = self.seconds(system)
            _, self.lost = system.workers_of(pid)
            self._set(system, seconds)
            system.fleet.victims.add(pid)
            os.kill(pid, signal.SIGKILL)
            self.pids, self.detail = [pid], f"by {seconds:.1f} s; process {pid} is killed"

    def seconds(self, system: System) -> float:
        """Return the seconds by which to set it ahead; jobs delayed meanwhile come due that much later."""
        return system.rng.uniform(1.2, 3) * system.lease

    def end(self, system: System) -> None:  # noqa: D102
        if self.pids:
            self._set(system, 0)

    def _set(self, system: System, seconds: float) -> None:
        for store in system.stores:
            asked = time.time()
            store.set_clock(seconds)
            system.note("clock", db=store.db, asked=asked, seconds=seconds)


class SetClockBack(SetClockAhead):
    """The same with the clock set back first, often by more than any worker could wait."""

    name = "clock set back"

    def seconds(self, system: System) -> float:  # noqa: D102
        return -system.rng.choice((system.rng.uniform(1.2, 3) * system.lease, system.rng.uniform(20, 50)))

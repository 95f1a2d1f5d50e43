"""The faults. Each knows how to begin, how to end, and what recovery from it means."""

import os
import random
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar

from redisjobs import server
from redisjobs.cli.torture import jobs
from redisjobs.cli.torture.fleet import Fleet
from redisjobs.cli.torture.proxy import Proxy
from redisjobs.cli.torture.store import Store
from redisjobs.codec import new_job_id
from redisjobs.drivers import lua
from redisjobs.errors import DriverError
from redisjobs.queue import JobQueue

_HOUR = 3600
_IN_HAND = 10  # jobs that take a whole lease, so that whoever is hit has one in hand


@dataclass(slots=True)
class Field:
    """What a fault can act on.

    Attributes:
        fleet: The workers.
        store: The straight connection.
        lease: The workers', in seconds.
        workers: The proxy between workers and server; None if there is none.
        producers: The one between producers and server.
        own: The server, if it is ours to break.
        queue: To make jobs with.
        rng: The fault's own chance.
        notes: What the faults want written down.
    """

    fleet: Fleet
    store: Store
    lease: float
    workers: Proxy | None = None
    producers: Proxy | None = None
    own: server.Server | None = None
    queue: JobQueue = field(default_factory=lambda: JobQueue("memory://", "torture"))
    rng: random.Random = field(default_factory=random.Random)
    notes: list[dict[str, Any]] = field(default_factory=list)

    def proxies(self) -> list[Proxy]:
        """The workers' proxy, and in half of the cases the producers' as well."""
        both = self.rng.random() < 0.5
        return [proxy for proxy in (self.workers, self.producers if both else None) if proxy is not None]

    def push(self, parameters: Any) -> str:
        """Push a job past all faults, as one more producer."""
        job = self.queue.prepare(parameters, job_id=new_job_id())
        at = time.time()
        self.notes.append({"what": "push", "job": job.job_id, "name": parameters.job_name, "at": at})
        self.store.push([job])
        self.notes.append({"what": "pushed", "job": job.job_id, "holder": "", "at": time.time()})
        return job.job_id


class Fault(ABC):
    """One fault, once.

    Attributes:
        name: What it is called.
        holds: Seconds it is in force for, in leases where `in_leases` is set.
        lingers: Seconds after its end until all have noticed that it is over.
        recovery: `jobs`: from its beginning until the jobs in the hands of `pids` are started again, or seen
            to have ended. `workers`: from its end until every worker that lives has started a job.
            `''`: there is nothing to recover from.
        pids: The processes it is about.
        jobs: The jobs it put in.
        detail: What it was about, for people.
    """

    name: ClassVar[str]
    holds: ClassVar[float] = 0.5
    in_leases: ClassVar[float] = 0.0
    lingers: ClassVar[float] = 0.0
    recovery: ClassVar[str] = ""

    def __init__(self) -> None:
        self.pids: list[int] = []
        self.jobs: list[str] = []
        self.detail = ""

    @classmethod
    def possible(cls, field: Field) -> bool:
        """Whether it can be done here."""
        return True

    @property
    def happened(self) -> bool:
        """Whether it did, once begun."""
        return True

    def is_possible_now(self, field: Field) -> bool:
        """Whether there is something to harm at this moment."""
        return True

    def prepare(self, field: Field) -> None:  # noqa: B027  (few faults need this)
        """See to it that the harm is worth while; called a moment before."""

    @abstractmethod
    def begin(self, field: Field) -> None:
        """Let it be in force."""

    def end(self, field: Field) -> None:  # noqa: B027  (nor is there always something to undo)
        """Undo it."""

    def keep(self, field: Field) -> None:  # noqa: B027
        """Called again and again while it is in force."""


# Processes


class _ProcessFault(Fault):
    recovery = "jobs"

    @property
    def happened(self) -> bool:
        return bool(self.pids)

    def is_possible_now(self, field: Field) -> bool:
        return field.fleet.complete

    def prepare(self, field: Field) -> None:
        for _ in range(_IN_HAND):
            field.push(jobs.Work(field.lease))


class KillWorker(_ProcessFault):
    """SIGKILL of a worker process that nobody watches."""

    name = "worker killed"
    holds = 1.0
    supervised: ClassVar[bool] = False

    def begin(self, field: Field) -> None:  # noqa: D102
        pid = field.fleet.some_pid(supervised=self.supervised)
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            self.pids, self.detail = [pid], f"process {pid}"


class KillChild(KillWorker):
    """SIGKILL of a worker process under its supervisor's eyes."""

    name = "child killed"
    supervised = True


class KillHost(_ProcessFault):
    """SIGKILL of a supervisor and all its workers at once, as when a machine dies."""

    name = "host killed"
    holds = 1.0

    @classmethod
    def possible(cls, field: Field) -> bool:  # noqa: D102
        from redisjobs.cli.torture.fleet import HOSTS

        return any(kind.processes > 1 for kind in HOSTS)

    def begin(self, field: Field) -> None:  # noqa: D102
        host = field.fleet.some_host(supervised=True)
        if host is not None:
            self.pids = field.fleet.members(host)
            for pid in (host.process.pid, *self.pids):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.detail = f"supervisor {host.process.pid} and {len(self.pids)} workers"


class FreezeWorker(_ProcessFault):
    """SIGSTOP of a worker for longer than its lease, then SIGCONT.

    Of none that has a supervisor: should we be killed meanwhile, the kernel would not see to that one's end.
    """

    name = "worker frozen"
    in_leases = 1.75

    def begin(self, field: Field) -> None:  # noqa: D102
        pid = field.fleet.some_pid(supervised=False)
        if pid is not None:
            field.fleet.host_of(pid).frozen = True
            os.kill(pid, signal.SIGSTOP)
            self.pids, self.detail = [pid], f"process {pid}"

    def end(self, field: Field) -> None:  # noqa: D102
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
            for host in field.fleet.hosts:
                host.frozen = False


class StopWorker(_ProcessFault):
    """SIGTERM of a host, as a deploy does; another is started."""

    name = "worker stopped"
    holds = 2.0

    def begin(self, field: Field) -> None:  # noqa: D102
        host = field.fleet.some_host()
        if host is not None:
            self.pids = field.fleet.members(host)
            host.leaving = True
            host.process.terminate()
            self.detail = f"process {host.process.pid}"


# Jobs


class PushPoison(Fault):
    """A job that kills its worker, each time."""

    name = "poison job"
    holds = 1.0
    recovery = "jobs"

    def begin(self, field: Field) -> None:  # noqa: D102
        self.jobs = [field.push(jobs.Poison())]
        self.detail = self.jobs[0]


class BlockLoop(Fault):
    """A handler that blocks its worker's event loop for longer than the lease."""

    name = "event loop blocked"
    in_leases = 2.0

    def begin(self, field: Field) -> None:  # noqa: D102
        self.jobs = [field.push(jobs.Blocker(1.8 * field.lease))]
        self.detail = self.jobs[0]


class PutMalformed(Fault):
    """Entries put in by hand that are no jobs, or are jobs that not every worker knows."""

    name = "malformed entries"
    holds = 0.2

    def begin(self, field: Field) -> None:  # noqa: D102
        long_ago = str(int((time.time() - 2 * _HOUR) * 1000))
        bad: list[dict[str, str | bytes]] = [
            {"name": "Work", "parameters": b"\xff\xfe{"},
            {"name": "Work", "parameters": '{"seconds": "soon"}'},
            {"parameters": "{}"},
            {"name": "Work"},
            {"name": "Nobody", "parameters": "{}", "unknown_since": long_ago},
            {"name": "Work", "parameters": "[" * 10_000},
            {f"field {number}": "x" for number in range(100)},
        ]
        for fields in bad:
            entry = field.store.put(fields)
            field.notes.append({"what": "by hand", "job": entry, "at": time.time()})
            self.jobs.append(entry)
        for _ in range(3):
            self.jobs.append(field.push(jobs.Newcomer()))
        self.detail = f"{len(bad)} bad entries, and 3 jobs of a newer release"


# The server


class _ServerFault(Fault):
    recovery = "workers"

    @classmethod
    def possible(cls, field: Field) -> bool:
        return field.own is not None


class KillServer(_ServerFault):
    """kill -9 of the server; it is started again on its append-only file."""

    name = "server killed"
    holds = 1.5

    def begin(self, field: Field) -> None:  # noqa: D102
        assert field.own is not None
        field.own.kill()

    def end(self, field: Field) -> None:  # noqa: D102
        assert field.own is not None
        field.own.restart()


class KillClients(_ServerFault):
    """CLIENT KILL of every connection, those that listen included."""

    name = "clients killed"
    holds = 0.3

    def begin(self, field: Field) -> None:  # noqa: D102
        killed = 0
        for kind in ("normal", "pubsub"):
            killed += field.store.run("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
        self.detail = f"{killed} connections"


class FlushScripts(_ServerFault):
    """SCRIPT FLUSH, again and again."""

    name = "scripts flushed"
    holds = 1.0

    def begin(self, field: Field) -> None:  # noqa: D102
        self.keep(field)

    def keep(self, field: Field) -> None:  # noqa: D102
        field.store.run("SCRIPT", "FLUSH")


class SqueezeMemory(_ServerFault):
    """A memory limit below what is in use: nothing can be pushed, and all else goes on."""

    name = "memory full"
    holds = 3.0

    def begin(self, field: Field) -> None:  # noqa: D102
        field.store.run("CONFIG", "SET", "maxmemory", "100kb")

    def end(self, field: Field) -> None:  # noqa: D102
        field.store.run("CONFIG", "SET", "maxmemory", "0")


# The network


class _NetworkFault(Fault):
    recovery = "workers"

    def __init__(self) -> None:
        super().__init__()
        self.proxies: Sequence[Proxy] = ()

    @classmethod
    def possible(cls, field: Field) -> bool:
        return field.workers is not None


class _BrokenNetwork(_NetworkFault):
    def begin(self, field: Field) -> None:
        self.proxies = field.proxies()
        self.detail = "workers and producers" if len(self.proxies) > 1 else "workers"
        for proxy in self.proxies:
            self.harm(proxy)

    @abstractmethod
    def harm(self, proxy: Proxy) -> None:
        """Do to one proxy what it does."""


class ResetConnections(_BrokenNetwork):
    """Every connection is reset."""

    name = "connections reset"
    holds = 0.3

    def harm(self, proxy: Proxy) -> None:  # noqa: D102
        proxy.drop_all()


class RefuseConnections(_BrokenNetwork):
    """Every connection is reset, and new ones are refused."""

    name = "connections refused"
    holds = 2.0

    def harm(self, proxy: Proxy) -> None:  # noqa: D102
        proxy.refuse(True)
        proxy.drop_all()

    def end(self, field: Field) -> None:  # noqa: D102
        for proxy in self.proxies:
            proxy.refuse(False)


class BlackHole(_BrokenNetwork):
    """Nothing comes through, for longer than a lease, and nobody is told."""

    name = "network cut"
    in_leases = 1.5
    lingers = 8.0  # whose connection is half-open notices it only then

    def harm(self, proxy: Proxy) -> None:  # noqa: D102
        proxy.black_hole(True)

    def end(self, field: Field) -> None:  # noqa: D102
        for proxy in self.proxies:
            proxy.black_hole(False)


class SlowNetwork(_BrokenNetwork):
    """Everything takes its time."""

    name = "network slow"
    holds = 3.0

    def harm(self, proxy: Proxy) -> None:  # noqa: D102
        proxy.delay(0.1)

    def end(self, field: Field) -> None:  # noqa: D102
        for proxy in self.proxies:
            proxy.delay(0)


class _CutReply(_NetworkFault):
    """Some command's reply is cut: what it did is done, and whoever asked does not learn it."""

    holds = 1.0
    triggers: ClassVar[Sequence[str]] = ()

    def begin(self, field: Field) -> None:
        trigger, n = field.rng.choice(self.triggers), field.rng.choice((0, 0, 1, 20, 150))
        wire = trigger if trigger.isupper() else lua.script(trigger).sha
        proxy = field.producers if trigger == "push" else field.workers
        assert proxy is not None
        proxy.cut_after_reply_bytes(n, trigger=wire.encode())
        self.proxies, self.detail = [proxy], f"{trigger}, after {n} bytes"


class CutClaim(_CutReply):
    """The reply in which jobs are handed out."""

    name = "claim cut"
    triggers = ("XREADGROUP", "claim")


class CutSettlement(_CutReply):
    """The reply that says a job was settled."""

    name = "settlement cut"
    triggers = ("ack", "ack", "retry")


class CutPush(_CutReply):
    """The reply that says a job was pushed."""

    name = "push cut"
    recovery = ""
    triggers = ("push",)


FAULTS: Sequence[type[Fault]] = (
    *(KillWorker, KillChild, KillHost, FreezeWorker, StopWorker, PushPoison, BlockLoop, PutMalformed),
    *(KillServer, KillClients, FlushScripts, SqueezeMemory),
    *(ResetConnections, RefuseConnections, BlackHole, SlowNetwork, CutClaim, CutSettlement, CutPush),
)
COMPANY = tuple(fault.name for fault in (KillWorker, KillChild, KillHost, StopWorker, PushPoison))
"""Those that may come together with one that is not of these."""


def duration(fault: type[Fault], lease: float) -> float:
    """Seconds that a fault is in force for."""
    return fault.in_leases * lease if fault.in_leases else fault.holds


def heal(field: Field) -> None:
    """Undo whatever may be in force."""
    for proxy in (field.workers, field.producers):
        if proxy is not None:
            proxy.black_hole(False)
            proxy.refuse(False)
            proxy.delay(0)
    if field.own is not None:
        with suppress(DriverError):
            field.store.run("CONFIG", "SET", "maxmemory", "0")
    for pid in field.fleet.pids():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    for host in field.fleet.hosts:
        host.frozen = False

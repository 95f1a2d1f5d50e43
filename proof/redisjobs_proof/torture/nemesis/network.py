"""Faults of the network, made by a proxy."""

import random
import time
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from redisjobs import sync
from redisjobs.errors import DriverError
from redisjobs.model.codec import new_job_id
from redisjobs.model.options import PushOptions
from redisjobs_proof.torture.fleet import jobs
from redisjobs_proof.torture.fleet.store import Store, through
from redisjobs_proof.torture.nemesis.fault import Fault, System
from redisjobs_proof.torture.proxy import Proxy

_FIRST_BYTES = (b"EVALSHA", b"redisjobs.push_")
"""What tells the bytes of a push, on Redis and on Postgres."""

_PATIENCE = 2.0  # seconds for which the queue tries a push


class _NetworkFault(Fault):
    recovery = "workers"

    def __init__(self) -> None:
        super().__init__()
        self.proxies: Sequence[Proxy] = ()

    @classmethod
    def possible(cls, system: System) -> bool:
        return system.workers is not None

    def give_work(self, system: System) -> None:
        """Push a job for workers to claim and to settle."""
        for store in system.stores:
            system.push(jobs.Flaky(2), store)


class _BrokenNetwork(_NetworkFault):
    unsteady = True

    def begin(self, system: System) -> None:
        self.proxies = system.proxies()
        self.detail = "workers and producers" if len(self.proxies) > 1 else "workers"
        for proxy in self.proxies:
            self.harm(proxy)

    @abstractmethod
    def harm(self, proxy: Proxy) -> None:
        """Break one proxy."""


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
    hits = "all"
    reaches = 1.0  # the longest pause between two tries

    def harm(self, proxy: Proxy) -> None:  # noqa: D102
        proxy.refuse(True)
        proxy.drop_all()

    def end(self, system: System) -> None:  # noqa: D102
        for proxy in self.proxies:
            proxy.refuse(False)


class BlackHole(_BrokenNetwork):
    """No byte comes through for longer than a lease, and no connection breaks."""

    name = "network cut"
    in_leases = 1.5
    hits = "all"
    reaches = 2.0  # the worker waits this long for a swallowed heartbeat, then sends another
    lingers = 8.0  # only then have clients noticed a half-open connection

    def harm(self, proxy: Proxy) -> None:  # noqa: D102
        proxy.black_hole(True)

    def end(self, system: System) -> None:  # noqa: D102
        for proxy in self.proxies:
            proxy.black_hole(False)


class SlowNetwork(_BrokenNetwork):
    """Every packet is delayed."""

    name = "network slow"
    holds = 3.0

    def harm(self, proxy: Proxy) -> None:  # noqa: D102
        proxy.delay(0.1)

    def end(self, system: System) -> None:  # noqa: D102
        for proxy in self.proxies:
            proxy.delay(0)


class _CutReply(_NetworkFault):
    """The reply to a command is cut: the command has run, but its sender does not learn it."""

    holds = 1.0
    triggers: ClassVar[Sequence[str]] = ()
    most: ClassVar[int] = 4000  # at most this many bytes come before the cut

    def begin(self, system: System) -> None:
        trigger, n = system.rng.choice(self.triggers), self.some_bytes(system.rng)
        proxy = system.producers if trigger == "push" else system.workers
        assert proxy is not None
        proxy.cut_after_reply_bytes(n, *_wires(system, trigger))
        self.before = proxy.cuts
        self.proxies, self.detail = [proxy], f"{trigger}, after {n} bytes"

    def some_bytes(self, rng: random.Random) -> int:
        """Return after how many bytes of the reply to cut: mostly after a few."""
        return 0 if rng.random() < 0.25 else int(self.most ** rng.random())

    def keep(self, system: System) -> None:
        if not self.happened and system.workers in self.proxies:  # else there may be no reply to cut
            self.give_work(system)
            for store in system.stores if "claim" in self.triggers else ():
                store.publish(b"released 1")  # a worker that receives this claims by the script

    def end(self, system: System) -> None:
        for proxy in self.proxies:
            proxy.cut_no_more()

    @property
    def happened(self) -> bool:
        return any(proxy.cuts > self.before for proxy in self.proxies)


class CutClaim(_CutReply):
    """The reply that delivers jobs is cut."""

    name = "claim cut"
    triggers = ("XREADGROUP", "claim")


class _LateRequest(_NetworkFault):
    """The proxy holds a request, which arrives after its sender has given it up."""

    holds = 1.0
    WHILES: ClassVar[Sequence[float]] = (0.2, 1, 3, 6)  # seconds; shorter than workers watch for late reads
    TOO_LATE: ClassVar[float] = 1.0  # if we are later than planned by this much, we drop the request
    triggers: ClassVar[Sequence[str]] = ()

    def begin(self, system: System) -> None:
        assert system.workers is not None
        trigger, self.pause = system.rng.choice(self.triggers), system.rng.choice(self.WHILES)
        self.held = system.workers.hold(*_wires(system, trigger))
        self.proxies, self.detail = [system.workers], f"{trigger}, for {self.pause:g} s"

    def keep(self, system: System) -> None:
        if not self.happened:
            self.give_work(system)

    def end(self, system: System) -> None:
        due = time.monotonic() + self.pause

        def let_go() -> bool:
            now = time.monotonic()
            if self.happened and now < due and not system.over:
                return False
            if now > due + self.TOO_LATE:
                self.held.drop()
            self.held.release()
            return True

        system.late.append(let_go)

    @property
    def happened(self) -> bool:
        return self.held.bytes > 0


class LateClaim(_LateRequest):
    """A claim arrives late, maybe with settlements before it.

    The worker has settled these jobs again meanwhile. It does not learn which jobs it claimed, and must find them.
    """

    name = "claim late"
    triggers = ("BLOCK", "XREADGROUP")


class LateFire(_LateRequest):
    """A call that fires schedules arrives late: the same scheduler or others have fired its slots meanwhile."""

    name = "fire late"
    recovery = ""
    triggers = ("fire",)


class CutSettlement(_CutReply):
    """The reply that says a job was settled is cut."""

    name = "settlement cut"
    triggers = ("settle",)


class CutReclaim(_CutReply):
    """The reply that names lost workers and released jobs is cut."""

    name = "reclaim cut"
    triggers = ("reclaim",)
    most = 150


class CutBeat(_CutReply):
    """The reply to a heartbeat is cut: all of it, or its last bytes."""

    name = "beat cut"
    triggers = ("beat",)

    def some_bytes(self, rng: random.Random) -> int:  # noqa: D102
        return rng.randrange(len(":0\r\n"))


class SlowBeat(_NetworkFault):
    """The reply to a heartbeat comes only after as long as a lease."""

    name = "beat late"
    in_leases = 1.0

    def begin(self, system: System) -> None:  # noqa: D102
        assert system.workers is not None
        system.workers.delay_reply(self.in_leases * system.lease, *_wires(system, "beat"))
        self.before = system.workers.lags
        self.proxies = [system.workers]

    def end(self, system: System) -> None:  # noqa: D102
        for proxy in self.proxies:
            proxy.delay_reply_no_more()

    @property
    def happened(self) -> bool:  # noqa: D102
        return any(proxy.lags > self.before for proxy in self.proxies)


class CutPush(_CutReply):
    """The reply that says a job was pushed is cut."""

    name = "push cut"
    recovery = ""
    triggers = ("push",)
    most = 150


class CutFire(_CutReply):
    """The reply that says which slots were fired is cut."""

    name = "fire cut"
    recovery = ""
    triggers = ("fire",)
    most = 150


def _wires(system: System, trigger: str) -> list[bytes]:
    """Return bytes that tell requests of a kind, in any release so far, from others."""
    return system.store.wires(trigger, system.fleet.release)


class LateBytes(Fault):
    """The proxy holds the bytes of a push. Its repetition arrives, and the job runs; then the bytes arrive too.

    They arrive when the job has ended, or some seconds later; the last when Redis no longer remembers the job.
    They must not add a second job.
    """

    name = "late bytes"
    holds = 2.5
    WHILES: ClassVar[Sequence[float]] = (0, 0, 0.3, 1, 12, 40, 70)

    def __init__(self) -> None:
        super().__init__()
        self.held = 0  # bytes

    @classmethod
    def possible(cls, system: System) -> bool:  # noqa: D102
        return system.producers is not None

    def begin(self, system: System) -> None:  # noqa: D102
        assert system.producers is not None
        store = system.some_store()
        self.db = store.db
        proxy = system.stack.enter_context(Proxy(*system.producers.target))
        url = through(store.url, proxy.port)
        queue = system.stack.enter_context(sync.JobQueue(url, system.fleet.queue, deadline=_PATIENCE))
        ways = system.rng.sample(range(len(self.WHILES)), len(self.WHILES))
        for pause, way in zip(self.WHILES, ways, strict=True):
            self._push(system, store, queue, proxy, pause, self._options(way))
        self.detail = f"{self.held} bytes of {len(self.jobs)} pushes"

    @property
    def happened(self) -> bool:  # noqa: D102
        return self.held > 0

    def _options(self, way: int) -> PushOptions:
        """Return options: half of the jobs get their id from the queue; half of each have a unique key."""
        options: PushOptions = {"job_id": f"late-{new_job_id()}"} if way % 2 else {}
        if way // 2 % 2:
            options["unique"] = f"late {new_job_id()}"
        return options

    def _push(
        self, system: System, store: Store, queue: sync.JobQueue, proxy: Proxy, pause: float, options: PushOptions
    ) -> None:
        """Push a job, hold the bytes of its first try, and arrange that they go on after the job's end."""
        held = proxy.hold(*_FIRST_BYTES)
        try:
            handle = queue.push(jobs.Work(0.001), **options)
        except DriverError as error:  # the job may be there, or not
            for unknown in error.job_ids:
                system.note("push", job=unknown, db=store.db, name="Work")
            held.release()
            raise
        job_id = handle.id
        self.jobs.append(job_id)
        self.held += held.bytes
        system.note("push", job=job_id, db=store.db, name="Work")
        system.note("pushed", job=job_id, db=store.db, holder="", added=handle.added)
        ended: list[float] = []

        def let_go() -> bool:
            if not ended and (held.bytes == 0 or store.queue.get(job_id) is None):
                ended.append(time.monotonic())
            if not ended or (time.monotonic() < ended[0] + pause and not system.over):
                return False
            held.release()
            return True

        system.late.append(let_go)

"""The base class of faults, and the system on which they act."""

import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self, Unpack

from redisjobs.errors import DriverError
from redisjobs.local import server
from redisjobs.model.codec import new_job_id
from redisjobs.model.options import PushOptions
from redisjobs_proof.torture.fleet import flows
from redisjobs_proof.torture.fleet.detour import Front
from redisjobs_proof.torture.fleet.fleet import Fleet
from redisjobs_proof.torture.fleet.producer import Producer
from redisjobs_proof.torture.fleet.redis_store import on_redis
from redisjobs_proof.torture.fleet.store import MARK, Fields, Store, new_mark
from redisjobs_proof.torture.proxy import Proxy
from redisjobs_proof.torture.topology import Topology
from redisjobs_proof.torture.topology.pooler import Pooler

if TYPE_CHECKING:  # it needs psycopg, which is an extra
    from redisjobs_proof.torture.topology.standby import Pair

_FACTS = (
    "name hits recovery lingers reaches unsteady forgets_deliveries releases_at_once grace silent lost pids "
    "jobs db detail lossy keeps_jobs uneven"
).split()


@dataclass(slots=True)
class System:
    """The parts on which a fault can act. As a context manager it closes proxies and queues that faults opened.

    Attributes:
        stores: Direct connections, one for each database.
        lease: The longest lease of a worker, in seconds.
        workers: The proxy between workers and server; None without one.
        producers: The proxy between producers and server; None without one.
        own: The server, if faults may break it; in a topology, the queue's owner when `follow` was called last.
        topology: The servers that work together, if there are several.
        fronts: The proxies in front of each of them, by its port.
        pair: The PostgreSQL server with its standby, if there is one.
        pooler: The PgBouncer in front of a PostgreSQL server, if there is one.
        rng: The random choices of faults.
        notes: Lines for the recording.
        late: Acts that come after their fault: each is called until it returns True.
        fenced: The fenced workers that were recorded, by database and id.
        over: Whether all faults are over, so that late acts have to come now.
    """

    fleet: Fleet
    stores: Sequence[Store]
    lease: float
    workers: Proxy | None = None
    producers: Proxy | None = None
    own: server.Server | None = None
    topology: Topology | None = None
    fronts: Mapping[int, Front] = field(default_factory=dict)
    pair: "Pair | None" = None
    pooler: Pooler | None = None
    rng: random.Random = field(default_factory=random.Random)
    notes: list[dict[str, Any]] = field(default_factory=list)
    late: list[Callable[[], bool]] = field(default_factory=list)
    over: bool = False
    fenced: set[tuple[int, str]] = field(default_factory=set)
    stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stack.close()

    @property
    def store(self) -> Store:
        """The first database, for faults of the whole server."""
        return self.stores[0]

    def follow(self) -> None:
        """Let faults act on the queue's present owner, and on the proxies in front of it.

        Raises:
            LookupError: No server knows the owner.
        """
        if self.topology is not None:
            self.own = self.topology.owner(self.fleet.queue)
            front = self.fronts[self.own.port]
            self.workers, self.producers = front.workers, front.producers
            for store in self.stores:
                store.connect()  # if it was connected to the last owner, its next call finds this one

    def some_store(self) -> Store:
        """Return one of the databases, mostly the first, which has more workers."""
        return self.rng.choices(self.stores, (3, 1, 1)[: len(self.stores)])[0]

    def proxies(self) -> list[Proxy]:
        """Return the workers' proxy, and in half of the cases the producers' as well."""
        both = self.rng.random() < 0.5
        return [proxy for proxy in (self.workers, self.producers if both else None) if proxy is not None]

    def push(
        self, parameters: Any, store: Store | None = None, *, mark: str = "", **options: Unpack[PushOptions]
    ) -> str:
        """Push a job over a direct connection; return its id. A `mark` tells it from others with its id."""
        store = store or self.some_store()
        job_id = options.setdefault("job_id", new_job_id())
        assert job_id is not None
        line = {"job": job_id, "db": store.db}
        if mark:
            line[MARK] = mark
            options["headers"] = {MARK: mark}
        self.note("push", name=parameters.job_name, kept=bool(options.get("keep_result")), **line)
        handle = store.queue.push(parameters, **options)
        self.note("pushed", holder="", added=handle.added, delay=options.get("delay") or 0.0, **line)
        return job_id

    def push_flows(self) -> None:
        """Push jobs that save steps, wait, and run children for a while, so that the next fault hits some."""
        kinds: list[Any] = [flows.Saving(10, seconds=0.1), flows.ThreadSaving(10, seconds=0.1)]
        kinds += [flows.Sleeper([0.01] * 10), flows.Sleeper([0.5] * 3)]
        kinds.append(flows.Family([["work", "sleep", "work"]] * 3))
        for kind in kinds:
            self.push(kind)

    def put(self, fields: Fields, store: Store, rank: int = 1) -> str:
        """Add a ready entry without any of the checks of a push; return its mark."""
        mark, fields = new_mark(), {"id": new_job_id(), **fields}
        if store.put(marked(fields, mark), rank):
            size = sum(len(name) + len(value) for name, value in fields.items())
            self.note("external", job=_text(fields["id"]), db=store.db, mark=mark, pushed=False, size=size)
        return mark

    def put_into_inbox(self, fields: Fields, store: Store, *, pushed: bool) -> str:
        """Put an entry into the inbox; return the id of its job, or of its dead letter if not `pushed`."""
        entry = on_redis(store).put_into_inbox(fields)
        job = _text(fields.get("id") or entry) if pushed else entry
        self.note("external", job=job, db=store.db, pushed=pushed)
        return job

    def producer(self, db: int) -> Producer:
        """Return a producer in a database, whose lines are notes."""
        return Producer(_Notes(self.notes), db)

    def note(self, what: str, **facts: Any) -> None:
        """Add a line for the recording."""
        self.notes.append({"what": what, "at": time.time(), **facts})

    def workers_of(self, pid: int) -> tuple[Store, list[str]]:
        """Return the database of a worker process, and its worker ids there."""
        store = self.stores[self.fleet.host_of(pid).kind.db]
        return store, store.workers(pid)

    def look_for_fenced(self) -> None:
        """Note workers that were fenced since the last call: from now on Redis must refuse them."""
        for store in self.stores:
            with suppress(DriverError):  # the store is unavailable just now
                for worker in store.fenced():
                    if (store.db, worker) not in self.fenced:
                        self.fenced.add((store.db, worker))
                        self.note("fenced", worker=worker, db=store.db)

    def tend(self) -> None:
        """Do the late acts that are due."""
        for act in list(self.late):
            with suppress(DriverError):  # the store is unavailable just now
                if act():
                    self.late.remove(act)


def _text(said: str | bytes) -> str:
    return said.decode("utf-8", "surrogateescape") if isinstance(said, bytes) else said


def marked(fields: Fields, mark: str) -> Fields:
    """Return an entry's fields with its mark."""
    return {MARK: mark, "headers": f'{{"{MARK}": "{mark}"}}', **fields}


@dataclass(frozen=True)
class _Notes:
    lines: list[dict[str, Any]]

    def write(self, line: Mapping[str, Any]) -> None:
        self.lines.append(dict(line))


class Fault(ABC):
    """A fault that happens once.

    Attributes:
        holds: Seconds for which it is in force; `in_leases` counts in leases instead.
        lingers: Seconds after its end until all processes have noticed that it is over.
        reaches: Seconds after its end in which it may still hit a job that starts then: until its worker can renew
            again, or is gone.
        hits: Whose jobs may run again because of it: `pids`, those of these processes; `all`, those of all
            workers, or of the workers of `db`; `` for none.
        recovery: `jobs`: from its beginning until the jobs of `pids` have been started again, or have ended.
            `killers`: the same from each time that one of its `jobs` killed a process. `workers`: from its end
                until every living worker has started a job. ``: there is nothing to recover from.
        unsteady: Whether workers may fail to renew, or distrust the server's clock, while it is in force, though
            they lose no job.
        alone: Whether no other fault may come together with it.
        releases_at_once: Whether jobs that it takes are released at once; otherwise their leases run out first.
        uneven: Whether it may cut off some workers and not others, so that these may fence those meanwhile.
        grace: Seconds from its beginning in which its workers may finish their jobs. They release a job then, or
            when its run ends.
        forgets_deliveries: Whether deliveries are counted from zero again.
        pids: The processes that it hits.
        silent: The ids of workers that send no heartbeat until its end, and have to be fenced by then.
        lost: The ids of workers that it kills, and that have to be fenced by its end.
        jobs: The jobs that it pushed.
        db: The database that it hits; None for all.
        detail: What it did, for people.
        keeps_jobs: Whether, while it is lossy, no job may be lost, and no end of one with a result.
        lossy: When the server may have lost what it had acknowledged: the beginning and the end; empty for never.
    """

    name: ClassVar[str]
    holds: ClassVar[float] = 0.5
    in_leases: ClassVar[float] = 0.0
    lingers: ClassVar[float] = 0.0
    reaches: ClassVar[float] = 0.0
    hits: ClassVar[str] = ""
    recovery: ClassVar[str] = ""
    unsteady: ClassVar[bool] = False
    alone: ClassVar[bool] = False
    releases_at_once: bool = False
    uneven: ClassVar[bool] = False
    grace: ClassVar[float] = 0.0
    forgets_deliveries: ClassVar[bool] = False
    keeps_jobs: ClassVar[bool] = False

    def __init__(self) -> None:
        self.pids: list[int] = []
        self.silent: list[str] = []
        self.lost: list[str] = []
        self.jobs: list[str] = []
        self.db: int | None = None
        self.detail = ""
        self.lossy: list[float] = []

    @classmethod
    def possible(cls, system: System) -> bool:
        """Whether this system allows the fault."""
        return True

    @property
    def happened(self) -> bool:
        """Whether the fault did harm, once it has begun."""
        return True

    def is_possible_now(self, system: System) -> bool:
        """Whether there is something to harm at this moment."""
        return True

    def prepare(self, system: System) -> None:  # noqa: B027
        """Push jobs for the fault to harm; called a moment before `begin`."""

    @abstractmethod
    def begin(self, system: System) -> None:
        """Begin the fault."""

    def end(self, system: System) -> None:  # noqa: B027
        """Undo the fault."""

    def keep(self, system: System) -> None:  # noqa: B027
        """Keep the fault in force; called again and again."""

    def may_end(self, system: System) -> bool:
        """Whether it has done what it is to do."""
        return True

    def is_undone(self, system: System) -> bool:
        """Whether the system is as before, once it has ended."""
        return True

    @property
    def facts(self) -> dict[str, Any]:
        """The facts to record, besides its times."""
        return {name: getattr(self, name) for name in _FACTS}

"""Faults that a driver may have, put into the one in memory; for a process of its own."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any

from redisjobs.drivers.memory import exchange, operator, producer, worker
from redisjobs.drivers.memory.driver import MemoryConsumer, MemoryDriver, SyncMemoryConsumer, SyncMemoryDriver
from redisjobs.drivers.memory.ends import conclude
from redisjobs.drivers.memory.include import fence
from redisjobs.drivers.memory.shares import Limiter
from redisjobs.drivers.memory.state import Memory, Record, Stream
from redisjobs.model.job import OnConflict
from redisjobs.model.queries import GetBacklog
from redisjobs.model.transitions import Ack, Exchange, Lease, NewJob, Pushed, Reply, Settlement, Silent, Turn


def pushes_what_is_there() -> None:
    """A push adds its jobs, whatever their ids."""

    def push(memory: Memory, jobs: Sequence[NewJob], *, repeated: bool) -> list[Pushed]:
        for job in jobs:
            producer.add(memory, job, memory.now_ms())
        return [Pushed(Reply.OK) for _ in jobs]

    producer.push = push


def forgets_what_it_refused() -> None:
    """A push that was refused is made after all when it is repeated."""
    push = producer.push

    def forget(memory: Memory, jobs: Sequence[NewJob], *, repeated: bool) -> list[Pushed]:
        memory.refused.clear()
        return push(memory, jobs, repeated=repeated)

    producer.push = forget


def replaces_as_often_as_it_is_told() -> None:
    """A push that replaces a job does so again when it is repeated."""
    producer._lately_answered = lambda memory, job, one: None


def heeds_lost_leases() -> None:
    """A job is settled by whoever says so."""

    def owns(stream: Stream, worker: str, lease: Lease) -> bool:
        return lease.token[1] in stream.pending

    exchange._owns = owns


def settles_again() -> None:
    """What is sent again is taken for new."""
    settle = exchange.settle

    def anew(
        memory: Memory, worker: str, turn: Turn | None, settlements: Sequence[tuple[Lease, Settlement]]
    ) -> Exchange:
        return settle(memory, worker, None, settlements)

    exchange.settle = anew


def forgets_deliveries() -> None:
    """What was handed back is claimed as if it had not been delivered before."""
    deliver = exchange._deliver

    def forget(memory: Memory, claimed: Any, stream: Stream, entry: str) -> None:
        stream.pending[entry] = replace(stream.pending[entry], deliveries=0)
        deliver(memory, claimed, stream, entry)

    exchange._deliver = forget


def heeds_fenced_workers() -> None:
    """A worker that is not known is taken for a new one."""

    def record(self: Memory, worker: str) -> Record:
        return self.workers.setdefault(worker, Record(None, 15, float("inf")))

    Memory.record = record  # type: ignore[method-assign]


def spares_nobody() -> None:
    """Whoever was named is fenced, though it has beaten since."""

    def fence_silent(memory: Memory, silent: Sequence[Silent]) -> list[str]:
        for each in silent:
            fence(memory, each.worker_id)
        return [each.worker_id for each in silent]

    worker._fence_silent = fence_silent


def leaves_no_killer_alone() -> None:
    """A job is delivered for the last time to a worker that runs others."""
    exchange._runs_nothing = lambda memory, claimed: True


def tells_nothing() -> None:
    """Nobody hears of what happens."""
    Memory.tell = lambda self, kind, value: None  # type: ignore[method-assign]


def keeps_shares() -> None:
    """What was limited, and has ended, is counted on."""
    exchange.give_up = lambda memory, place, *, refund=False: None  # type: ignore[attr-defined]


def starts_over_a_limit() -> None:
    """A limit stops nobody."""
    Limiter.start = lambda self, stream, entry, *, waited=False: None  # type: ignore[method-assign]


def writes_as_it_reads() -> None:
    """A query leaves something behind."""
    read = operator.read

    def note(memory: Memory, query: Any) -> Any:
        memory.count("read")
        return read(memory, query)

    operator.read = note


def knows_only_what_it_did_itself() -> None:
    """Each driver has a state of its own."""
    init = MemoryDriver.__init__

    def alone(self: MemoryDriver, memory: Memory | None = None) -> None:
        init(self, Memory(memory.now_ms if memory else None))

    MemoryDriver.__init__ = alone  # type: ignore[method-assign, assignment]


def keeps_results_of_lost_leases() -> None:
    """What a handler returned is kept, whoever holds its job by now."""
    settle_one = exchange._settle_one

    def keep(memory: Memory, worker: str, lease: Lease, settlement: Settlement, added: Any) -> Reply:
        reply = settle_one(memory, worker, lease, settlement, added)
        if isinstance(settlement, Ack) and settlement.result is not None:
            conclude(memory, lease.job_id, "completed", {}, settlement.result)
        return reply

    exchange._settle_one = keep


def tells_nobody_who_waits() -> None:
    """A process that waits for a job does not hear of its end."""
    Memory.tell_process = lambda self, process, job_id: None  # type: ignore[method-assign]


def forgets_no_end() -> None:
    """How the last job of an id has ended is taken for the end of the next one."""
    producer.forget_end = operator.forget_end = lambda memory, job_id: None  # type: ignore[attr-defined]


def lacks_measure() -> None:
    """One query is not known; no fault in a driver that says so."""
    operator._READS = {query: answer for query, answer in operator._READS.items() if query is not GetBacklog}


def lacks(*verbs: str) -> None:
    """Some verbs are not there yet, by their names in `VERBS`."""
    for verb in verbs:
        VERBS[verb]()


def _missing(cls: type, name: str, *, without: Callable[..., bool] = lambda *_, **__: True) -> Callable[[], None]:
    """Takes a method away, for calls with such arguments."""

    def take() -> None:
        method = getattr(cls, name)

        @wraps(method)
        def missing(self: Any, *arguments: Any, **options: Any) -> Any:
            if without(*arguments, **options):
                raise NotImplementedError(name)
            return method(self, *arguments, **options)

        setattr(cls, name, missing)

    return take


def _all(*takes: Callable[[], None]) -> Callable[[], None]:
    def take() -> None:
        for each in takes:
            each()

    return take


def _settling(*names: str) -> Callable[[], None]:
    def without(settlements: Any, *_: Any, **__: Any) -> bool:
        return any(type(settlement).__name__ in names for _, settlement in settlements)

    return _missing(MemoryConsumer, "exchange", without=without)


def _asked(name: str, verb: str) -> Callable[[], None]:
    return _missing(MemoryDriver, verb, without=lambda value: type(value).__name__ == name)


VERBS: dict[str, Callable[[], None]] = {
    "RetryLater": _settling("RetryLater"),
    "Release": _settling("Release"),
    "DeadLetter": _settling("DeadLetter"),
    "turns": _missing(MemoryConsumer, "exchange", without=lambda *_, turn=None, **__: turn is not None),
    "Scan": _asked("Scan", "read"),
    "Count": _asked("Count", "read"),
    "Cancel": _asked("Cancel", "change"),
    "Requeue": _asked("Requeue", "change"),
    "Delete": _asked("Delete", "change"),
    "RequeueAll": _asked("RequeueAll", "change"),
    "DeleteAll": _asked("DeleteAll", "change"),
    "beat": _missing(SyncMemoryConsumer, "beat"),
    "repeated": _missing(MemoryDriver, "push", without=lambda *_, repeated, **__: repeated),
    "on_conflict": _missing(
        MemoryDriver, "push", without=lambda jobs, **_: any(job.on_conflict is not OnConflict.SKIP for job in jobs)
    ),
    "recover": _missing(MemoryConsumer, "recover"),
    "release": _all(_missing(MemoryConsumer, "release"), _missing(SyncMemoryConsumer, "release")),
    "reclaim": _missing(MemoryConsumer, "reclaim"),
    "pushes": _missing(
        MemoryConsumer,
        "exchange",
        without=lambda settlements, *_, **__: any(getattr(one, "pushes", ()) for _, one in settlements),
    ),
    "idle": _missing(MemoryConsumer, "exchange", without=lambda *_, idle=False, **__: idle),
    "wait": _missing(MemoryConsumer, "wait"),
    "listen of a consumer": _missing(MemoryConsumer, "listen"),
    "the sync driver": _all(*(_missing(SyncMemoryDriver, name) for name in ("push", "read", "change"))),
    "Measure": _asked("Measure", "read"),
    "GroupDead": _asked("GroupDead", "read"),
    **{name: _asked(name, "change") for name in ("Pause", "Resume", "Hold", "Unhold", "Unpark", "SetLimit")},
    "FindPauses": _asked("FindPauses", "read"),
    "FindLimits": _asked("FindLimits", "read"),
    "Several": _asked("Several", "change"),
    "Tidy": _asked("Tidy", "change"),
    "listen of a driver": _missing(MemoryDriver, "listen"),
    "Ask": _asked("Ask", "change"),
}
"""What a driver's author may not have built yet."""

"""Faults that a driver may have, put into the one in memory; for a process of its own."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial, wraps
from itertools import count
from typing import Any

from redisjobs.drivers.memory import children, chunks, claims, ends, operator, pushes, steps, worker
from redisjobs.drivers.memory.driver import MemoryConsumer, MemoryDriver, SyncMemoryConsumer, SyncMemoryDriver
from redisjobs.drivers.memory.limits import Limiter
from redisjobs.drivers.memory.state import CHANGES, QUERIES, Memory, StoredJob, StoredWorker
from redisjobs.model.children import CancelChildren
from redisjobs.model.emissions import EmitChunks
from redisjobs.model.job import OnConflict, State
from redisjobs.model.moving import Import
from redisjobs.model.queries import GetBacklog
from redisjobs.model.steps import Signal
from redisjobs.model.transitions import (
    Ack,
    Exchange,
    Lease,
    NewJob,
    Pushed,
    Reply,
    SaveStep,
    Settlements,
    Turn,
)
from redisjobs_proof.contract import memory_moving


def pushes_what_is_there() -> None:
    """A push adds its jobs, whatever their ids."""

    def push(memory: Memory, jobs: Sequence[NewJob], *, repeated: bool) -> list[Pushed]:
        for job in jobs:
            pushes.add(memory, job)
        return [Pushed(Reply.OK) for _ in jobs]

    pushes.push = push


def forgets_what_it_refused() -> None:
    """A push that was refused is made after all when it is repeated."""
    push = pushes.push

    def forget(memory: Memory, jobs: Sequence[NewJob], *, repeated: bool) -> list[Pushed]:
        memory.refused.clear()
        return push(memory, jobs, repeated=repeated)

    pushes.push = forget


def replaces_as_often_as_it_is_told() -> None:
    """A push that replaces a job does so again when it is repeated."""
    push = pushes.push

    def forget(memory: Memory, jobs: Sequence[NewJob], *, repeated: bool) -> list[Pushed]:
        memory.answers.clear()
        return push(memory, jobs, repeated=repeated)

    pushes.push = forget


def heeds_lost_leases() -> None:
    """Any worker may settle a job."""

    def leased(memory: Memory, worker: StoredWorker, lease: Lease) -> StoredJob | None:
        job = memory.jobs.get(lease.job_id)
        return job if job and job.state is State.RUNNING else None

    worker._leased = leased


def settles_again() -> None:
    """What is sent again is taken for new."""
    settle = worker.settle

    def anew(memory: Memory, worker_id: str, turn: Turn | None, settlements: Settlements) -> Exchange:
        return settle(memory, worker_id, None, settlements)

    worker.settle = anew


def numbers_no_runs() -> None:
    """Chunks that a run emits again are taken for those of the run before."""
    emit = chunks.emit

    def forget(memory: Memory, job: StoredJob, emitted: EmitChunks) -> None:
        emit(memory, job, replace(emitted, wait=1_000_000))

    worker.emit = forget  # type: ignore[attr-defined]


def forgets_deliveries() -> None:
    """What was handed back is claimed as if it had not been delivered before."""
    deliver = claims._deliver

    def forget(memory: Memory, claimed: Any, job: StoredJob) -> None:
        job.deliveries = 0
        deliver(memory, claimed, job)

    claims._deliver = forget


def heeds_fenced_workers() -> None:
    """A worker that is not known is taken for a new one."""

    def worker(self: Memory, worker_id: str) -> StoredWorker:
        return self.workers.setdefault(worker_id, StoredWorker(worker_id, "", 15, float("inf")))

    Memory.worker = worker  # type: ignore[method-assign]


def spares_nobody() -> None:
    """A worker that was named is fenced, though it has beaten since."""

    worker._until_ms = lambda worker: ""


def leaves_no_killer_alone() -> None:
    """A job is delivered for the last time to a worker that runs others."""
    claims._Claim.runs_nothing = True  # type: ignore[assignment, method-assign]


def tells_nothing() -> None:
    """No notification is sent."""
    Memory.tell = lambda self, kind, value, channel="": None  # type: ignore[method-assign]


def keeps_shares() -> None:
    """What was limited, and has ended, is counted on."""
    worker.give_up = lambda memory, job, *, refund=False: None  # type: ignore[attr-defined]


def starts_over_a_limit() -> None:
    """A limit stops no job."""
    Limiter.start = lambda self, job, *, waited=False: None  # type: ignore[method-assign]


def writes_as_it_reads() -> None:
    """A query leaves something behind."""
    for asked, answer in list(QUERIES.items()):
        QUERIES[asked] = partial(_note, answer)


def _note(answer: Any, memory: Memory, query: Any) -> Any:
    memory.count("read")
    return answer(memory, query)


def knows_only_what_it_did_itself() -> None:
    """Each driver has a state of its own."""
    init = MemoryDriver.__init__

    def alone(self: MemoryDriver, memory: Memory | None = None) -> None:
        init(self, Memory(memory.now_ms if memory else None))

    MemoryDriver.__init__ = alone  # type: ignore[method-assign, assignment]


def keeps_results_of_lost_leases() -> None:
    """A result is kept, even if another worker holds the job by now."""
    settle = worker.settle

    def keep(memory: Memory, worker_id: str, turn: Turn | None, settlements: Settlements) -> Exchange:
        answer = settle(memory, worker_id, turn, settlements)
        for lease, settlement in settlements:
            if isinstance(settlement, Ack) and settlement.result is not None:
                memory.results[lease.job_id] = settlement.result.value or b"", float("inf")
        return answer

    worker.settle = keep


def tells_nobody_who_waits() -> None:
    """A process that waits for a job does not hear of its end."""
    Memory.tell_processes = lambda self, job: None  # type: ignore[method-assign]


def forgets_no_end() -> None:
    """How the last job of an id has ended is taken for the end of the next one."""
    pushes.forget_end = operator.forget_end = lambda memory, job_id: None  # type: ignore[attr-defined]


def saves_again() -> None:
    """The last result of a step counts, not the first one."""
    save = steps.save

    def replace_it(memory: Memory, job: StoredJob, step: SaveStep) -> Reply:
        if job.id in memory.steps:
            memory.steps[job.id].saved.pop(step.key, None)
        return save(memory, job, step)

    worker.save = replace_it  # type: ignore[attr-defined]


def keeps_steps_of_what_has_ended() -> None:
    """A new job gets the steps of an earlier one with its id."""
    ends.forget = lambda memory, job: None


def takes_signals_again() -> None:
    """A signal that is sent again is taken for another one."""
    signal = CHANGES[Signal]
    numbers = count()
    CHANGES[Signal] = lambda memory, change: signal(memory, replace(change, nonce=f"{next(numbers)}"))


def keeps_no_signal() -> None:
    """A signal is lost if the job does not wait for it yet."""
    signal = CHANGES[Signal]

    def lose(memory: Memory, change: Signal) -> Reply:
        reply: Reply = signal(memory, change)
        memory.signals.clear()
        return reply

    CHANGES[Signal] = lose


def wakes_no_parent() -> None:
    """The end of the last child is noted, and no more."""
    children.wake = lambda memory, job, how, value=b"": None  # type: ignore[attr-defined]


def adds_children_again() -> None:
    """The store does not know which children were there already."""
    children._add = lambda memory, token, group, job: pushes.add(memory, job).reply is Reply.OK


def cancels_no_children() -> None:
    """Children go on after their parent was cancelled."""
    CHANGES[CancelChildren] = lambda memory, change: False


def parts_parents_from_children() -> None:
    """A move takes a job while others wait for its outcome."""
    memory_moving._stays = lambda memory, job, most_bytes: False


def imports_again() -> None:
    """A job that was imported is taken for a new one when it comes again."""
    take_in = CHANGES[Import]

    def forget(memory: Memory, change: Import) -> list[Pushed]:
        memory_moving.moves_of(memory).imported.clear()
        return list(take_in(memory, change))

    CHANGES[Import] = forget


def imports_no_steps() -> None:
    """A job from elsewhere comes without what it has saved."""
    memory_moving._keep_saved = lambda memory, taken: None


def lacks_measure() -> None:
    """One query is not known; no fault in a driver that says so."""
    del QUERIES[GetBacklog]


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
    "ReportProgress": _settling("ReportProgress"),
    "EmitChunks": _settling("EmitChunks"),
    "GetChunks": _asked("GetChunks", "read"),
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
    "GetBacklog": _asked("GetBacklog", "read"),
    "GroupDead": _asked("GroupDead", "read"),
    **{name: _asked(name, "change") for name in ("Pause", "Resume", "Hold", "Unhold", "Unpark", "SetLimit")},
    "FindPauses": _asked("FindPauses", "read"),
    "AskWorker": _asked("AskWorker", "change"),
    "FindWorkers": _asked("FindWorkers", "read"),
    "FindLimits": _asked("FindLimits", "read"),
    "ChangeMany": _asked("ChangeMany", "change"),
    "Tidy": _asked("Tidy", "change"),
    "listen of a driver": _missing(MemoryDriver, "listen"),
    "GetStatus": _asked("GetStatus", "change"),
    "Record": _asked("Record", "change"),
    "FindIntervals": _asked("FindIntervals", "read"),
    "Ahead": _asked("Ahead", "read"),
    "Relay": _asked("Relay", "change"),
    "ForgetRelayed": _asked("ForgetRelayed", "change"),
    **{name: _asked(name, "change") for name in ("Take", "Import", "ForgetTaken", "Signal", "CancelChildren")},
    **{name: _asked(name, "read") for name in ("GetSteps", "FindChildren")},
    **{name: _settling(name) for name in ("SaveStep", "Suspend", "AddChildren")},
    "the children of a Suspend": _missing(
        MemoryConsumer,
        "exchange",
        without=lambda settlements, *_, **__: any(getattr(one, "group", None) for _, one in settlements),
    ),
    "from_step": _missing(
        MemoryDriver, "change", without=lambda change: getattr(change, "from_step", None) is not None
    ),
    **{name: _asked(name, "read") for name in ("FindTaken", "FindRetention")},
    "FindRelayed": _asked("FindRelayed", "read"),
}
"""What a driver's author may not have built yet."""

"""The overview: how far the queue is behind, what fails, who works."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from redisjobs.base.visible import number_of
from redisjobs.model.info import PauseInfo, WorkerInfo
from redisjobs.model.queries import Backlog, Counts
from redisjobs.model.statistics import NameStatistics
from redisjobs.web.board.visit import ViewAnswer, Visit, part
from redisjobs.web.pages.trends import RANGES, trends
from redisjobs.web.show.format import count, duration

_CAUSES, _NAMES = 5, 10
_LATE = 60.0  # seconds that a ready job may wait before the page says that the queue is behind


@dataclass(frozen=True, slots=True)
class Vitals:
    """How the queue is doing, in a sentence.

    Attributes:
        color: The class of its colour: the name of a state.
        said: The sentence.
        detail: What to know or to do.
        command: A command to type; '' for none.
    """

    color: str
    said: str
    detail: str = ""
    command: str = ""


async def overview(visit: Visit) -> ViewAnswer:
    """Show how the queue is doing."""
    board, faults = visit.board, list[str]()
    counts = await board.counts()
    backlog = await part(board.backlog(), Backlog({}, 0), faults)
    pauses = await part(board.pauses(), PauseInfo(None, {}, 0), faults)
    workers = await part(board.workers(), [], faults)
    groups = await part(board.groups(), [], faults)
    chosen, drawn = await part(trends(visit), ("1h", ()), faults)
    names = await part(_names(visit), [], faults)
    alive = [worker for worker in workers if worker.lease > 0]
    data = {
        "faults": list(dict.fromkeys(faults)),
        "counts": counts,
        "ready": sum(counts.ready.values()),
        "oldest": max(backlog.oldest.values(), default=None),
        "slots": sum(worker.slots for worker in alive),
        "alive": alive,
        "speed": board.speed("completed"),
        "range": chosen,
        "ranges": RANGES,
        "trends": drawn,
        "names": names[:_NAMES],
        "groups": groups[:_CAUSES],
        "causes": len(groups),
        "pauses": pauses,
        "health": health(counts, backlog, pauses, workers, visit.now),
    }
    return ViewAnswer("overview", "Overview", data, view="overview")


async def _names(visit: Visit) -> Sequence[NameStatistics]:
    return (await visit.board.overview()).names


def health(
    counts: Counts, backlog: Backlog, pauses: PauseInfo, workers: list[WorkerInfo], now: datetime
) -> Vitals:
    """Return how the queue is doing."""
    ready = sum(counts.ready.values())
    alive = [worker for worker in workers if worker.lease > 0]
    oldest = max(backlog.oldest.values(), default=0.0)
    if pauses.since is not None:
        said = f"The queue is paused since {duration(max(0.0, (now - pauses.since).total_seconds()))}."
        return Vitals("delayed", said, f"{_running(counts.running)} No other job starts until you resume.")
    if not alive:
        return _without_workers(ready, counts)
    if ready and all(worker.quiet or worker.stopping for worker in alive):
        said = "No job starts: all workers are quiet, or stop."
        return Vitals("delayed", said, f"{count(ready)} ready. Let a worker resume, or start another.")
    if oldest >= _LATE:
        busy = sum(worker.running for worker in alive) >= sum(worker.slots for worker in alive)
        why = (
            "All slots are busy: more workers or slots would help."
            if busy
            else "There are free slots: open a ready job to see why it waits."
        )
        return Vitals("dead", f"The queue is behind: a ready job has waited for {duration(oldest)}.", why)
    if pauses.names:
        names = ", ".join(pauses.names)
        return Vitals(
            "delayed", f"{number_of(len(pauses.names), 'job name')} paused: {names}.", "All other jobs run."
        )
    if ready and oldest:
        return Vitals("done", "The workers keep up.", f"The oldest ready job has waited for {duration(oldest)}.")
    return Vitals("done", "The workers keep up.", "No job waits for a worker.")


def _without_workers(ready: int, counts: Counts) -> Vitals:
    command = "redisjobs worker myapp:queue"
    if waiting := ready + counts.delayed + counts.suspended + counts.inbox:
        said = f"No worker is alive, and {number_of(waiting, 'job')} wait{'s' * (waiting == 1)}."
        return Vitals("dead", said, "Start a worker:", command)
    if not any(counts.totals.values()):
        return Vitals("idle", "This queue is new.", "Start a worker, then push a job:", command)
    return Vitals("idle", "No worker is alive, and no job waits.", "Start a worker:", command)


def _running(number: int) -> str:
    return "The job that runs goes on." if number == 1 else f"{count(number)} jobs that run go on."

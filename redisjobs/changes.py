"""What is told of a push, or of a change, that was made by a call on a queue.

A queue loads this once somebody has asked for its events: else nobody listens.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from redisjobs.errors import DriverError
from redisjobs.events import Event, Events, JobsChanged, JobsPushed, PushFailed, QueuePaused, QueueResumed
from redisjobs.filters import DONE
from redisjobs.push import Told, name_in
from redisjobs.queries import Cancel, Change, Delete, Hold, JobChange, Pause, Requeue, Resume, Several, Unhold
from redisjobs.transitions import Reply

_NAMES = {Cancel: "cancel", Requeue: "requeue", Delete: "delete", Hold: "hold", Unhold: "unhold"}


def tell_pushed(events: Events, queue: str, told: Sequence[Told]) -> None:
    """Tell whoever listens to a queue's events what became of the jobs of a push."""
    if events.wanted(JobsPushed):
        events.publish(JobsPushed(queue, jobs=[each[:3] for each in told]))


def tell_push_failed(events: Events, queue: str, error: DriverError) -> None:
    """Tell whoever listens to a queue's events that a push raised."""
    if events.wanted(PushFailed):
        jobs = [(job.job_id, name_in(job)) for job in error.jobs]
        events.publish(PushFailed(queue, jobs=jobs, error=error))


def tell_changed(events: Events, queue: str, change: Change[Any], answer: Any) -> None:
    """Tell whoever listens to a queue's events what a change came to."""
    match change:
        case Cancel() | Requeue() | Delete() | Hold() | Unhold():
            _tell_jobs(events, queue, [change], [answer])
        case Several(changes):
            _tell_jobs(events, queue, changes, answer)
        case Pause(name):
            _tell(events, QueuePaused(queue, name=name))
        case Resume(name):
            _tell(events, QueueResumed(queue, name=name))


def _tell_jobs(events: Events, queue: str, changes: Sequence[JobChange], replies: Sequence[Reply]) -> None:
    if events.wanted(JobsChanged):
        for name, jobs in _by_name(zip(changes, replies, strict=True)):
            events.publish(JobsChanged(queue, change=name, jobs=jobs))


def _by_name(
    made: Iterable[tuple[JobChange, Reply]],
) -> Iterator[tuple[str, list[tuple[str, Reply]]]]:
    jobs: dict[str, list[tuple[str, Reply]]] = {}
    for change, reply in made:
        if reply in DONE:
            jobs.setdefault(_NAMES[type(change)], []).append((change.job_id, reply))
    yield from jobs.items()


def _tell(events: Events, event: Event) -> None:
    if events.wanted(type(event)):
        events.publish(event)

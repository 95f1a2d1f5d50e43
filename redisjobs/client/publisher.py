"""Publishes the events of a queue's pushes and changes."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from redisjobs.client.push import name_in
from redisjobs.errors import DriverError
from redisjobs.events import logs
from redisjobs.events.kinds import (
    Event,
    Events,
    JobsChanged,
    JobsPushed,
    PushFailed,
    QueuePaused,
    QueueResumed,
)
from redisjobs.model.changes import (
    CHANGED,
    BulkResult,
    Cancel,
    Change,
    ChangeMany,
    Delete,
    DeleteAll,
    Hold,
    JobChange,
    Pause,
    Requeue,
    RequeueAll,
    Resume,
    Unhold,
)
from redisjobs.model.job import PushedJob
from redisjobs.model.transitions import Reply

_NAMES: dict[type[Change[Any]], str] = {
    Cancel: "cancel",
    Requeue: "requeue",
    Delete: "delete",
    Hold: "hold",
    Unhold: "unhold",
    RequeueAll: "requeue",
    DeleteAll: "delete",
}


class Publisher:
    """A publisher of the events of a queue's calls. The log listens to them.

    A queue makes it when `queue.events` is first used. It imports nothing later: if a new release is installed
    meanwhile, a running process must not load modules of that release.
    """

    def __init__(self, queue: str) -> None:
        self.events = Events()
        logs.listen(self.events)
        self._queue = queue

    def pushed(self, handles: Sequence[PushedJob]) -> None:
        """Publish the result of a push."""
        if self.events.wanted(JobsPushed):
            jobs = [(each.id, each.name, bool(each.added)) for each in handles]
            self.events.publish(JobsPushed(self._queue, jobs=jobs))

    def push_failed(self, error: DriverError) -> None:
        """Publish that a push raised."""
        if self.events.wanted(PushFailed):
            jobs = [(job.job_id, name_in(job)) for job in error.jobs]
            self.events.publish(PushFailed(self._queue, jobs=jobs, error=error))

    def changed(self, change: Change[Any], answer: Any) -> None:
        """Publish what a change did."""
        match change:
            case Cancel() | Requeue() | Delete() | Hold() | Unhold():
                self._publish_jobs([change], [answer])
            case ChangeMany(changes):
                self._publish_jobs(changes, answer)
            case RequeueAll() | DeleteAll():
                self._publish_taken(_NAMES[type(change)], answer)
            case Pause(name):
                self._publish(QueuePaused(self._queue, name=name))
            case Resume(name):
                self._publish(QueueResumed(self._queue, name=name))

    def _publish_jobs(self, changes: Sequence[JobChange], replies: Sequence[Reply]) -> None:
        if self.events.wanted(JobsChanged):
            for name, jobs in _by_name(zip(changes, replies, strict=True)):
                self.events.publish(JobsChanged(self._queue, change=name, jobs=jobs))

    def _publish_taken(self, name: str, taken: BulkResult) -> None:
        if taken.job_ids and self.events.wanted(JobsChanged):
            jobs = [(job_id, Reply.OK) for job_id in taken.job_ids]
            self.events.publish(JobsChanged(self._queue, change=name, jobs=jobs))

    def _publish(self, event: Event) -> None:
        if self.events.wanted(type(event)):
            self.events.publish(event)


def _by_name(
    made: Iterable[tuple[JobChange, Reply]],
) -> Iterator[tuple[str, list[tuple[str, Reply]]]]:
    jobs: dict[str, list[tuple[str, Reply]]] = {}
    for change, reply in made:
        if reply in CHANGED:
            jobs.setdefault(_NAMES[type(change)], []).append((change.job_id, reply))
    yield from jobs.items()

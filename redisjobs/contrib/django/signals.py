"""The signal `task_finished`, sent for each task that a worker has settled for good."""

from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from asgiref.sync import sync_to_async
from django.db import close_old_connections
from django.tasks.signals import task_finished

from redisjobs.contrib.django import results, tasks
from redisjobs.errors import DecodeError
from redisjobs.events.kinds import JobsCancelled, JobsCompleted, JobsDead, JobsSettled, SettledJob
from redisjobs.events.middleware import Middleware
from redisjobs.model.codec import decode_job, when
from redisjobs.model.info import JobInfo
from redisjobs.model.job import Priority, State
from redisjobs.model.outcome import Done, Outcome
from redisjobs.model.payload import decode_untyped
from redisjobs.model.transitions import DeadLetter, Lease

_STATES: dict[type[JobsSettled], State] = {
    JobsCompleted: State.COMPLETED,
    JobsDead: State.DEAD,
    JobsCancelled: State.CANCELLED,
}
_PRIORITIES = tuple(Priority)


class SignalQueue(Protocol):
    """The part of a queue that the signal needs."""

    sender: type[Any]
    worker_id: str

    def own(self, task: Any) -> Any:
        """Return a task as one of this queue."""


class Finished(Middleware):
    """Middleware that sends `task_finished` after a task was settled, so that a receiver sees what is stored.

    A task that is tried again has not finished. A receiver that raises is logged.
    """

    def __init__(self, owner: SignalQueue) -> None:
        self._owner = owner

    async def on_settled(self, job: SettledJob, outcome: Outcome | None) -> None:
        """Send the signal in the thread of Django's async calls, where receivers may use the database."""
        if job.kind in _STATES and job.lease is not None and (task := tasks.find(job.name)) is not None:
            await sync_to_async(self._send)(task, job, job.lease, outcome)

    def _send(self, task: Any, job: SettledJob, lease: Lease, outcome: Outcome | None) -> None:
        try:
            result = results.result_of(self._owner.own(task), _info(job, lease, self._owner.worker_id))
        except DecodeError:  # what was written under the name of the task is not a call of it
            return
        if isinstance(outcome, Done) and outcome.result is not None and outcome.result.value is not None:
            results.set_fields(result, _return_value=decode_untyped("the result", outcome.result.value))
        close_old_connections()
        try:
            task_finished.send_robust(self._owner.sender, task_result=result)
        finally:
            close_old_connections()


def _info(job: SettledJob, lease: Lease, worker_id: str) -> JobInfo:
    """Return the job as an operator would see it now, if the queue keeps it."""
    entry, now, died = decode_job(lease), datetime.now(UTC), job.settlement
    return JobInfo(
        job_id=job.job_id,
        name=job.name,
        state=_STATES[job.kind],
        priority=_PRIORITIES[lease.rank],
        parameters=entry.parameters.decode("utf-8", "replace"),
        attempt=job.attempt,
        worker=worker_id if job.ran else "",
        queued_at=when(entry.queued_ms),
        started_at=now - timedelta(seconds=job.ran) if job.ran else None,
        finished_at=now,
        error=died.error if isinstance(died, DeadLetter) else "",
        error_type=died.error_type if isinstance(died, DeadLetter) else "",
        traceback=died.traceback if isinstance(died, DeadLetter) else "",
        reason=died.reason if isinstance(died, DeadLetter) else "",
    )

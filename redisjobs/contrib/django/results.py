"""Jobs as Django's task results."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from django.conf import settings
from django.tasks import TaskResult, TaskResultStatus
from django.tasks.base import TaskError
from django.utils import timezone

from redisjobs.base.visible import visible
from redisjobs.contrib.django import tasks
from redisjobs.errors import DecodeError, JobCancelled, JobFailed
from redisjobs.model.info import JobInfo
from redisjobs.model.job import ASIDE, State
from redisjobs.model.payload import decode_untyped

_STATUS = {
    State.DELAYED: TaskResultStatus.READY,
    State.READY: TaskResultStatus.READY,
    State.RUNNING: TaskResultStatus.RUNNING,
    State.SUSPENDED: TaskResultStatus.RUNNING,  # it has started, and goes on in a later run
    State.DEAD: TaskResultStatus.FAILED,
    State.CANCELLED: TaskResultStatus.FAILED,
    State.COMPLETED: TaskResultStatus.SUCCESSFUL,
}
UNKNOWN = "unknown"
"""Stands for the worker of an earlier attempt, where the job's history is not known or is full."""


def result(task: Any, job_id: str, status: Any, call: Any, **known: Any) -> Any:
    """Return a task result; what is not known of it is None, or an empty list."""
    fields = dict.fromkeys(("enqueued_at", "started_at", "finished_at", "last_attempted_at"))
    return TaskResult(
        task=task,
        id=job_id,
        status=status,
        args=call["args"],
        kwargs=call["kwargs"],
        backend=task.backend,
        **{**fields, "errors": [], "worker_ids": [], **known},
    )


def result_of(task: Any, info: JobInfo) -> Any:
    """Return the result of a task's job; the returned value of a completed one is not in it yet."""
    has_ended = info.state in ASIDE
    attempts = info.attempt if has_ended or info.state is State.RUNNING else info.attempt - 1
    if not info.worker and has_ended:
        attempts -= 1  # it ended without a run
    failed = [event for event in info.history if event.what == "failed"]
    started_at = info.started_at
    if started_at and info.queued_at:  # a busy server takes a delivery for some ms older than it is
        started_at = max(started_at, info.queued_at)
    task = tasks.with_priority(task, info.priority)
    return result(
        task.using(run_after=time(info.due_at)) if info.due_at else task,
        info.job_id,
        _STATUS[info.state],
        _call(info),
        enqueued_at=time(info.queued_at),
        started_at=time(started_at),
        last_attempted_at=time(started_at or (failed[-1].at if failed else None)),
        finished_at=time(info.failed_at or info.finished_at),
        errors=_errors(info),
        worker_ids=workers(attempts, info.worker, {each.attempt or 0: each.worker for each in failed}),
    )


def _call(info: JobInfo) -> Any:
    """Return the arguments of a task's job; raise a `DecodeError` if it has others."""
    call = decode_untyped("the parameters", info.parameters.encode())
    if not (
        isinstance(call, dict) and isinstance(call.get("args"), list) and isinstance(call.get("kwargs"), dict)
    ):
        raise DecodeError(f"the parameters of job {visible(info.job_id)} are no arguments of a task")
    return call


def workers(attempts: int, last: str = "", earlier: Mapping[int, str] | None = None) -> list[str]:
    """Return as many worker ids as there were attempts; Django counts them."""
    known = {**(earlier or {}), **({attempts: last} if last else {})}
    return [known.get(number) or UNKNOWN for number in range(1, attempts + 1)]


def _errors(info: JobInfo) -> Sequence[Any]:
    if info.state is State.CANCELLED:
        return [error(f"{JobCancelled.__module__}.{JobCancelled.__qualname__}", "The job was cancelled.\n")]
    if not info.error or info.state is State.COMPLETED:
        return []
    kind = info.error_type or f"{JobFailed.__module__}.{JobFailed.__qualname__}"
    return [error(kind, info.traceback or f"{info.reason or 'error'}: {info.error}\n")]


def error(kind: str, traceback: str) -> Any:
    """Return an error of a task; a class without a module is a builtin."""
    return TaskError(exception_class_path=kind if "." in kind else f"builtins.{kind}", traceback=traceback)


def time(of: datetime | None) -> datetime | None:
    """Return a time as this project has its times: aware, or naive in its time zone."""
    return of if of is None or settings.USE_TZ else timezone.make_naive(of)


def set_fields(of: Any, **fields: Any) -> None:
    """Set fields of a frozen result, as Django's own backends do."""
    for name, value in fields.items():
        object.__setattr__(of, name, value)

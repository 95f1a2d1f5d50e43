"""The queue behind a queue name of Django, with Django's tasks as its handlers."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from inspect import iscoroutinefunction
from typing import Any

from django.tasks import TaskContext, TaskResultStatus
from django.tasks.signals import task_started
from django.utils import timezone
from django.utils.json import normalize_json

from redisjobs import sync
from redisjobs.base.arguments import seconds
from redisjobs.contrib.django import results, tasks
from redisjobs.contrib.django.connections import Connections
from redisjobs.contrib.django.signals import Finished
from redisjobs.errors import UnwritableResult
from redisjobs.model.changes import GetStatus, JobStatus
from redisjobs.model.context import JobContext
from redisjobs.model.job import JobDefinition
from redisjobs.model.options import HandlerOptions
from redisjobs.model.retention import Keep, Retention

_LONGER = 300
"""Seconds that a returned value is kept longer than its job, so that a job that is there has its value."""


class _Definitions(dict[str, JobDefinition[Any]]):
    """Handlers by name. A task that is not there yet is looked up, as tasks may be in any module of an app."""

    def __init__(self, define: Callable[[str], None]) -> None:
        super().__init__()
        self._define = define

    def get(self, name: str, default: Any = None) -> Any:
        if name not in self:
            self._define(name)
        return super().get(name, default)

    def __bool__(self) -> bool:
        """Return that there are handlers, although none was looked up yet."""
        return True


class TaskQueue(sync.JobQueue):
    """A queue whose jobs are tasks.

    Args:
        backend: The alias of the backend, and its class, which is the sender of signals.
        name: The queue's name.
        options: The `OPTIONS` of the backend.
    """

    def __init__(self, backend: tuple[str, type[Any]], name: str, options: Mapping[str, Any]) -> None:
        given = {key: value for key, value in options.items() if key != "enqueue_on_commit"}
        where, kept_for = given.pop("url", None), given.pop("keep_result", None)
        self.keep_result = seconds(kept_for, "keep_result") if kept_for is not None else 0
        if where is None:
            raise ValueError("OPTIONS has no url: give one, as redis://127.0.0.1:6379/0")
        middleware = [Connections(), Finished(self), *given.pop("middleware", ())]
        if self.keep_result:
            kept, age = given.get("retention") or Retention(), Keep(age=self.keep_result)
            given["retention"] = replace(kept, completed=kept.completed or age, cancelled=kept.cancelled or age)
        super().__init__(where, name, middleware=middleware, **given)
        self.alias, self.sender = backend
        self.definitions = _Definitions(self.define_task)
        self._defining = threading.Lock()
        self.worker_id = ""  # of the worker that runs its jobs in this process

    def define_task(self, path: str) -> None:
        """Register the task at a path as a handler, if there is one."""
        task = tasks.find(path)
        if task is None:
            return
        kept = HandlerOptions()
        if self.keep_result:
            kept = HandlerOptions(keep_result=self.keep_result + _LONGER, strict_result=True)
        with self._defining:
            if path not in self.definitions:
                self.register(tasks.job_name(path), **kept)(self._handler(self.own(task)))

    def own(self, task: Any) -> Any:
        """Return a task as one of this queue."""
        return task.using(queue_name=self.name, backend=self.alias)

    def status(self, job_id: str) -> JobStatus:
        """Return how a job ended, with the value that it returned."""
        (status,) = self._calls.ask(GetStatus([job_id]))
        return status

    def _handler(self, task: Any) -> Callable[[tasks.TaskCall, JobContext], Any]:
        if iscoroutinefunction(task.func):

            async def run_async(call: tasks.TaskCall, context: JobContext) -> Any:
                result = self._running(task, call, context)
                await task_started.asend_robust(self.sender, task_result=result)
                return self._returned(await task.func(*_arguments(result), **result.kwargs))

            return run_async

        def run(call: tasks.TaskCall, context: JobContext) -> Any:
            result = self._running(task, call, context)
            task_started.send_robust(self.sender, task_result=result)
            return self._returned(task.func(*_arguments(result), **result.kwargs))

        return run

    def _running(self, task: Any, call: tasks.TaskCall, context: JobContext) -> Any:
        now, self.worker_id = timezone.now(), context.worker_id
        return results.result(
            task,
            context.job_id,
            TaskResultStatus.RUNNING,
            call,
            enqueued_at=results.time(context.queued_at),
            started_at=now,
            last_attempted_at=now,
            worker_ids=results.workers(context.attempt, context.worker_id),
        )

    def _returned(self, value: Any) -> Any:
        """Return a task's value as Django normalizes it. If results are not kept, the value may be anything."""
        if not self.keep_result:
            return None
        try:
            return normalize_json(value)
        except (TypeError, ValueError) as error:
            raise UnwritableResult(
                f"the task has returned, and is not run again: JSON can't hold its result ({error})"
            ) from error


def _arguments(result: Any) -> list[Any]:
    return [TaskContext(task_result=result), *result.args] if result.task.takes_context else result.args

"""The backend of Django's tasks: enqueues tasks as jobs, and reads their results."""

import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from django.core import checks
from django.core.signals import setting_changed
from django.db import DEFAULT_DB_ALIAS, connections, transaction
from django.tasks import TaskResultStatus
from django.tasks.backends.base import BaseTaskBackend
from django.tasks.exceptions import InvalidTask, InvalidTaskBackend, TaskResultDoesNotExist
from django.tasks.signals import task_enqueued
from django.utils import timezone
from django.utils.json import normalize_json

from redisjobs.base.visible import visible
from redisjobs.contrib.django import results, tasks
from redisjobs.contrib.django.queue import TaskQueue
from redisjobs.errors import DecodeError, EncodeError
from redisjobs.model.changes import Ending
from redisjobs.model.info import JobInfo
from redisjobs.model.job import State
from redisjobs.model.payload import decode_untyped
from redisjobs.model.transitions import NewJob

_queues: dict[tuple[str, str], tuple[Mapping[str, Any], TaskQueue]] = {}
"""The queues of this process. Django makes a backend for each thread, but threads can share a queue."""
_making = threading.Lock()


class Backend(BaseTaskBackend):
    """A backend of Django's tasks. Each queue name of Django is a queue of redisjobs with this name.

    A task's priority is one of three: below 0 low, 0 normal, above 0 high. A task that raises is tried again by
    the retry policy of the queue, and meanwhile reads READY. Its worker sends `task_started` before each attempt,
    and `task_finished` after the last. A receiver that raises is logged. A cancelled task reads FAILED.

    These are its `OPTIONS` in the settings, besides all arguments of `JobQueue`, such as `retry` or `deadline`:

    - `url`: where the queues are; see `JobQueue` for `where`.
    - `keep_result`: the seconds or the timedelta for which ended tasks and their results are kept. Defaults to not
      at all. Then `get_result` is not supported, and a task may return anything.
    - `enqueue_on_commit`: True, or the alias of a database: enqueue when its transaction commits. After a rollback
      nothing is enqueued. The returned result has its id at once, and its `enqueued_at` after the commit.
    """

    supports_defer = True
    supports_async_task = True
    supports_priority = True

    @property
    def supports_get_result(self) -> bool:
        """Whether results are kept, and can be found: an id does not say in which of any number of queues."""
        return bool(self.options.get("keep_result") and self.queues)

    def queue(self, name: str) -> TaskQueue:
        """Return the sync queue behind a queue name, to look at its jobs, cancel or requeue them.

        Raises:
            InvalidTaskBackend: The options are wrong.
        """
        with _making:
            made = _queues.get((self.alias, name))
            if made is None or made[0] != self.options:
                try:
                    made = self.options, TaskQueue((self.alias, type(self)), name, self.options)
                except (TypeError, ValueError) as error:
                    raise InvalidTaskBackend(f"TASKS['{self.alias}'], queue '{name}': {error}") from error
                _queues[self.alias, name] = made
            return made[1]

    def enqueue(self, task: Any, args: Iterable[Any], kwargs: Mapping[str, Any]) -> Any:
        """Push a task as a job, at once or when the transaction commits.

        Raises:
            InvalidTask: The task is not valid, or its arguments are too large. Nothing was sent.
            TypeError: JSON can't hold the arguments. Nothing was sent.
            DriverError: See `JobQueue.push`. With `enqueue_on_commit`, the transaction is committed.
        """
        self.validate_task(task)
        call = {"args": normalize_json(list(args)), "kwargs": normalize_json(kwargs)}
        queue = self.queue(task.queue_name)
        try:
            job = queue.prepare(
                call,
                tasks.job_name(task.module_path),
                priority=tasks.priority_of(task),
                at=_aware(task.run_after),
            )
        except EncodeError as error:
            raise InvalidTask(str(error)) from error
        result = results.result(task, job.job_id, TaskResultStatus.READY, call)
        push = partial(self._push, queue, job, result)
        if database := self.options.get("enqueue_on_commit"):
            transaction.on_commit(push, using=DEFAULT_DB_ALIAS if database is True else database)
        else:
            push()
        return result

    def _push(self, queue: TaskQueue, job: NewJob, result: Any) -> None:
        queue.push_many([job])
        results.set_fields(result, enqueued_at=timezone.now())
        task_enqueued.send_robust(type(self), task_result=result)

    def get_result(self, result_id: str) -> Any:
        """Return the result of a task, from the queues of this backend.

        Raises:
            NotImplementedError: Results are not kept, or no queues are named.
            TaskResultDoesNotExist: No queue has such a job any more, or it is not a task of this project.
        """
        if not self.supports_get_result:
            raise NotImplementedError(
                "This backend does not support retrieving or refreshing results: give it QUEUES, and in OPTIONS "
                "keep_result, the seconds for which results are kept."
            )
        with suppress(UnicodeEncodeError):  # no job has an id that Redis can't store
            for queue in map(self.queue, sorted(self.queues)):
                info = queue.get(str(result_id))
                if info is not None and (found := self._result_in(queue, info)) is not None:
                    return found
        raise TaskResultDoesNotExist(f"no queue of '{self.alias}' has a task {visible(str(result_id))!r}")

    def _result_in(self, queue: TaskQueue, info: JobInfo) -> Any:
        task = tasks.find(info.name)
        if task is None:
            return None
        try:
            result = results.result_of(queue.own(task), info)
        except DecodeError:
            return None
        if info.state is State.COMPLETED:
            status = queue.status(info.job_id)
            if status.ending is not Ending.COMPLETED:  # it ran before results were kept, or on another backend
                return None
            results.set_fields(result, _return_value=decode_untyped("the result", status.value))
        return result

    def check(self, **kwargs: Any) -> list[checks.CheckMessage]:
        """Return what is wrong with the settings, without a call of the server."""
        found: list[checks.CheckMessage] = []
        for name in sorted(self.queues) or ["default"]:
            try:
                self.queue(name)
            except InvalidTaskBackend as error:
                found.append(checks.Error(str(error), id="redisjobs.E001"))
            if set(name) & set(".=") or set(self.alias) & set(".= "):
                said = f"`redisjobs worker` can't name queue '{name}' of TASKS['{self.alias}']."
                found.append(checks.Error(said, "Use letters, digits, - and _.", id="redisjobs.E002"))
        if not self.queues:
            said = f"TASKS['{self.alias}'] names no QUEUES, so a worker does not know which to work on."
            found.append(checks.Warning(said, "List them in QUEUES.", id="redisjobs.W001"))
        database = self.options.get("enqueue_on_commit") or DEFAULT_DB_ALIAS
        alias = DEFAULT_DB_ALIAS if database is True else database
        if alias not in connections:
            said = f"TASKS['{self.alias}']: enqueue_on_commit names no database of this project: {database!r}."
            found.append(checks.Error(said, id="redisjobs.E003"))
        return found


def _aware(run_after: Any) -> Any:
    if run_after is None or timezone.is_aware(run_after):
        return run_after
    return timezone.make_aware(run_after)  # USE_TZ is False: the project's times are in its own zone


def _forget_queues(*, setting: str, **kwargs: Any) -> None:
    """Close the queues when a test has changed the settings, as Django drops its backends."""
    if setting == "TASKS":
        with _making:
            for _, queue in _queues.values():
                queue.close()
            _queues.clear()


setting_changed.connect(_forget_queues)

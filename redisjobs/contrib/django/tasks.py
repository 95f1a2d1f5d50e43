"""Django's tasks as jobs: their names and parameters, and how a worker finds them."""

import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from typing import Any, TypedDict

from django.apps import apps
from django.tasks import Task

from redisjobs.base.logger import Log
from redisjobs.base.visible import visible
from redisjobs.model.job import JobName, Priority

logger = Log("redisjobs.django")


class TaskCall(TypedDict):
    """The parameters of a task's job: the arguments of the call."""

    args: list[Any]
    kwargs: dict[str, Any]


@cache
def job_name(path: str) -> JobName[TaskCall]:
    """Return the job name of a task: the path of its function. Cached, because making its adapter is slow."""
    return JobName(path, TaskCall)


def find(path: str) -> Any:
    """Return the task at a path; None if it is not there, or its module can't be imported.

    A module is imported only if it belongs to an installed app. Otherwise a job that was written into Redis could
    import any module.
    """
    module, _, name = path.rpartition(".")
    if module not in sys.modules and apps.get_containing_app_config(module) is None:
        return None
    try:
        found = getattr(import_module(module), name, None)
    except Exception as error:  # its job waits, as for a new release
        is_missing = isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}.")
        if not is_missing:
            logger.warning("the module of task %s can't be imported", visible(path), exc_info=True)
        return None
    return found if isinstance(found, Task) else None


def discovered() -> Iterator[Any]:
    """Yield the tasks in the modules `tasks` of the installed apps, as far as these are imported."""
    for app in apps.get_app_configs():
        module = sys.modules.get(f"{app.name}.tasks")
        if module is not None:
            yield from (each for each in vars(module).values() if isinstance(each, Task))


def priority_of(task: Any) -> Priority:
    """Return the priority of a task's job: Django has 201 of them, a queue has three."""
    if task.priority == 0:
        return Priority.NORMAL
    return Priority.HIGH if task.priority > 0 else Priority.LOW


def with_priority(task: Any, priority: Priority) -> Any:
    """Return a task whose job has this priority: unchanged if it fits, else with an extreme or no priority."""
    if priority_of(task) is priority:
        return task
    return task.using(priority={Priority.LOW: -100, Priority.NORMAL: 0, Priority.HIGH: 100}[priority])

"""The queues of the project's backends, for the command line: `redisjobs.django.worker:ALIAS.QUEUE`."""

from collections.abc import Iterator
from typing import Any

import django
from django.apps import apps
from django.tasks import task_backends
from django.utils.module_loading import autodiscover_modules

from redisjobs.django import tasks
from redisjobs.django.backend import Backend
from redisjobs.django.queue import TaskQueue

if not apps.ready:  # `manage.py` has set Django up; other processes of a supervisor have not
    django.setup()
autodiscover_modules("tasks")


class Queues:
    """The queues of one backend, as attributes."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> TaskQueue:
        if name not in self._backend.queues:
            raise AttributeError(name)
        queue = self._backend.queue(name)
        for task in tasks.discovered():
            queue.define_task(task.module_path)
        return queue


def __getattr__(alias: str) -> Any:
    if alias not in task_backends.settings or not isinstance(task_backends[alias], Backend):
        raise AttributeError(f"module {__name__!r} has no attribute {alias!r}")
    return Queues(task_backends[alias])


def targets() -> Iterator[tuple[str, str]]:
    """Yield the name of each queue of the project, and its place for the command line."""
    for alias in task_backends:
        if isinstance(task_backends[alias], Backend):
            for name in sorted(task_backends[alias].queues):
                yield name, f"{__name__}:{alias}.{name}"

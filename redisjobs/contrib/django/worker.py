"""The queues of the project's backends, for the command line: `redisjobs.contrib.django.worker:ALIAS.QUEUE`.

An alias may be any name, such as `tasks`, so this module has no public names of its own.
"""


def _set_up() -> None:
    import django
    from django.apps import apps
    from django.utils.module_loading import autodiscover_modules

    if not apps.ready:  # `manage.py` has set Django up; other processes of a supervisor have not
        django.setup()
    autodiscover_modules("tasks")


_set_up()


def __getattr__(alias: str) -> object:
    """Return the queues of a backend as attributes, with the tasks that are known so far."""
    from types import SimpleNamespace

    from django.tasks import task_backends

    from redisjobs.contrib.django import tasks
    from redisjobs.contrib.django.backend import Backend

    if alias not in task_backends.settings or not isinstance(task_backends[alias], Backend):
        raise AttributeError(f"module {__name__!r} has no attribute {alias!r}")
    queues = {name: task_backends[alias].queue(name) for name in sorted(task_backends[alias].queues)}
    for queue in queues.values():
        for task in tasks.discovered():
            queue.define_task(task.module_path)
    return SimpleNamespace(**queues)

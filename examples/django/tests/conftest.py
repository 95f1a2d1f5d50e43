import os
from collections.abc import Iterable

import django
import pytest

from redisjobs.sync import JobQueue

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
django.setup()


@pytest.fixture
def redisjobs_queues() -> Iterable[JobQueue]:
    """The queues that the fixture `jobs` moves into memory."""
    from django.tasks import default_task_backend

    return [default_task_backend.queue(name) for name in default_task_backend.queues]

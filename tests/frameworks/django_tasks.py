"""Tasks of Django, for test_django_backend.py."""

from typing import Any

from django.db import connection
from django.tasks import TaskContext, task

seen: list[Any] = []
"""What the tasks note."""


@task
def add(a: int, b: int = 0) -> int:
    seen.append(connection.connection)
    return a + b


@task
def enqueues(queue_name: str) -> str:
    return str(add.using(queue_name=queue_name).enqueue(1, 2).id)


@task
async def add_async(a: int, b: int = 0) -> int:
    return a + b


@task(priority=5)
def urgent() -> None:
    seen.append("urgent")


@task(takes_context=True)
def attempts(context: TaskContext, least: int) -> list[Any]:
    result = context.task_result
    seen.append(result)
    if context.attempt < least:
        raise ConnectionError(f"attempt {context.attempt}")
    return [result.id, context.attempt, result.status.value]


@task
def fails(text: str) -> None:
    raise ValueError(text)


@task
def returns_an_object() -> object:
    return object()


@task
def opens_a_connection() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    seen.append(connection.connection)
    return connection.connection is not None

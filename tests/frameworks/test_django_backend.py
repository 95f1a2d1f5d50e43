"""The backend of Django's tasks: what Django promises of a backend, on a real server and in memory."""

import asyncio
import dataclasses
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from pages import blocks
from results import drain
from store import Store
from tenacity import stop_after_attempt, wait_none

if sys.version_info < (3, 12):
    pytest.skip("Django 6 needs Python 3.12 or newer", allow_module_level=True)
django = pytest.importorskip("django", minversion="6.0")

from django.conf import settings  # noqa: E402

_FOLDER = tempfile.mkdtemp()  # Django would never close a database in memory
settings.configure(
    INSTALLED_APPS=["redisjobs.contrib.django"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": f"{_FOLDER}/db.sqlite3"}},
    TASKS={"default": {"BACKEND": "redisjobs.contrib.django.Backend", "OPTIONS": {"url": "memory://"}}},
    USE_TZ=True,
    TIME_ZONE="Europe/Berlin",
)
django.setup()

import django_tasks  # noqa: E402
from asgiref.sync import sync_to_async  # noqa: E402
from django.core import checks  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import connection, transaction  # noqa: E402
from django.tasks import TaskResultStatus, default_task_backend, task, task_backends  # noqa: E402
from django.tasks.exceptions import (  # noqa: E402
    InvalidTask,
    InvalidTaskBackend,
    TaskResultDoesNotExist,
    TaskResultMismatch,
)
from django.tasks.signals import task_enqueued, task_finished, task_started  # noqa: E402
from django.test import override_settings  # noqa: E402
from django.utils import timezone  # noqa: E402

from redisjobs import JobName, Priority, RetryPolicy, State, Unavailable, sync  # noqa: E402
from redisjobs.contrib.django import Backend, Connections  # noqa: E402
from redisjobs.testing import Jobs  # noqa: E402

NOW = RetryPolicy(wait=wait_none(), stop=stop_after_attempt(3))


@pytest.fixture(scope="module", autouse=True)
def database() -> Iterator[None]:
    yield
    shutil.rmtree(_FOLDER)


@pytest.fixture(autouse=True)
def notes() -> Iterator[list[Any]]:
    django_tasks.seen.clear()
    yield django_tasks.seen
    connection.close()
    asyncio.run(sync_to_async(lambda: connection.close())())  # that of Django's async calls


@contextmanager
def a_backend(store: Store, **options: Any) -> Iterator[Any]:
    """The default backend, with one queue in this store."""
    options = {"url": store.driver, "keep_result": timedelta(hours=1), "retry": NOW} | options
    with override_settings(
        TASKS={
            "default": {
                "BACKEND": "redisjobs.contrib.django.Backend",
                "QUEUES": [store.queue_name],
                "OPTIONS": options,
            }
        }
    ):
        yield default_task_backend


@pytest.fixture
def backend(store: Store) -> Iterator[Any]:
    with a_backend(store) as backend:
        yield backend


@pytest.fixture
def queue(backend: Any, store: Store) -> sync.JobQueue:
    found: sync.JobQueue = backend.queue(store.queue_name)
    return found


@pytest.fixture
def on(queue: sync.JobQueue) -> Any:
    """Puts a task on the queue of the test."""
    return lambda task, **changes: task.using(queue_name=queue.name, **changes)


def work(queue: sync.JobQueue) -> None:
    asyncio.run(drain(queue, concurrency=1))


def test_it_supports_all_that_a_backend_can(backend: Any, store: Store) -> None:
    assert isinstance(task_backends["default"], Backend)
    assert (backend.supports_defer, backend.supports_async_task, backend.supports_priority) == (True, True, True)
    assert backend.supports_get_result
    with a_backend(store, keep_result=None) as without:
        assert not without.supports_get_result
        with pytest.raises(NotImplementedError, match="give it QUEUES, and in OPTIONS keep_result"):
            without.get_result("1")


@pytest.mark.parametrize("each", [django_tasks.add, django_tasks.add_async])
def test_a_task_is_ready_then_successful_with_what_it_returned(each: Any, on: Any, queue: sync.JobQueue) -> None:
    result = on(each).enqueue(1, b=2)

    assert (result.status, result.args, result.kwargs) == (TaskResultStatus.READY, [1], {"b": 2})
    assert result.task == on(each)
    assert (result.started_at, result.finished_at, result.attempts) == (None, None, 0)
    assert result.enqueued_at is not None
    with pytest.raises(ValueError, match="Task has not finished yet"):
        _ = result.return_value

    work(queue)
    result.refresh()

    assert (result.status, result.return_value, result.attempts) == (TaskResultStatus.SUCCESSFUL, 3, 1)
    assert result.enqueued_at <= result.started_at <= result.finished_at
    assert result.last_attempted_at == result.started_at
    assert result.errors == []
    assert each.get_result(result.id).task.func == each.func


def test_async_calls_do_the_same(on: Any, queue: sync.JobQueue) -> None:
    async def enqueue_and_look() -> tuple[Any, Any]:
        result = await on(django_tasks.add).aenqueue(1, 2)
        await result.arefresh()
        return result, await django_tasks.add.aget_result(result.id)

    result, found = asyncio.run(enqueue_and_look())
    work(queue)
    asyncio.run(result.arefresh())

    assert (found.id, found.status, found.args) == (result.id, TaskResultStatus.READY, [1, 2])
    assert result.return_value == 3


def test_a_result_before_it_runs_reads_as_it_was_returned(on: Any) -> None:
    result = on(django_tasks.add).enqueue(1)
    there = {key: value for key, value in dataclasses.asdict(result).items() if key != "enqueued_at"}

    result.refresh()

    assert {key: value for key, value in dataclasses.asdict(result).items() if key != "enqueued_at"} == there


def test_a_task_that_raises_is_tried_again_and_fails_at_last(on: Any, queue: sync.JobQueue, notes: Any) -> None:
    result = on(django_tasks.fails).enqueue("no such address")

    work(queue)
    result.refresh()

    assert (result.status, result.attempts) == (TaskResultStatus.FAILED, 3)
    assert result.is_finished
    assert len(set(result.worker_ids)) == 1  # one worker, and none of them unknown
    assert "unknown" not in result.worker_ids
    (error,) = result.errors
    assert error.exception_class is ValueError
    assert error.traceback.endswith("ValueError: no such address\n")
    assert result.started_at <= result.finished_at
    with pytest.raises(ValueError, match="Task failed"):
        _ = result.return_value


def test_a_task_that_waits_for_its_next_attempt_is_ready_with_its_last_error(store: Store) -> None:
    later = RetryPolicy(wait=lambda _: 600, stop=stop_after_attempt(3))
    with a_backend(store, retry=later) as backend:
        result = django_tasks.fails.using(queue_name=store.queue_name).enqueue("once")
        work(backend.queue(store.queue_name))
        result.refresh()

        assert (result.status, result.attempts) == (TaskResultStatus.READY, 1)
        assert [error.traceback for error in result.errors] == ["error: ValueError: once\n"]
        assert result.worker_ids != ["unknown"]
        assert result.started_at is None
        assert result.last_attempted_at >= result.enqueued_at


def test_its_context_has_the_result_and_the_attempt(on: Any, queue: sync.JobQueue, notes: Any) -> None:
    result = on(django_tasks.attempts).enqueue(2)

    work(queue)
    result.refresh()

    assert result.return_value == [result.id, 2, "RUNNING"]
    assert [each.attempts for each in notes] == [1, 2]
    assert notes[0].worker_ids[0] == notes[1].worker_ids[1] != "unknown"
    assert notes[0].task.func == django_tasks.attempts.func


def test_a_value_that_json_cannot_hold_fails_the_task_without_another_run(on: Any, queue: sync.JobQueue) -> None:
    result = on(django_tasks.returns_an_object).enqueue()

    work(queue)
    result.refresh()

    assert (result.status, result.attempts) == (TaskResultStatus.FAILED, 1)
    assert "Unsupported type: <class 'object'>" in result.errors[0].traceback


def test_where_no_results_are_kept_a_task_may_return_anything(store: Store) -> None:
    with a_backend(store, keep_result=None) as backend:
        queue = backend.queue(store.queue_name)
        result = django_tasks.returns_an_object.using(queue_name=queue.name).enqueue()
        work(queue)

        assert queue.get(result.id) is None  # done


def test_a_cancelled_task_reads_failed(on: Any, queue: sync.JobQueue) -> None:
    result = on(django_tasks.add).enqueue(1)
    queue.control.pause()
    work(queue)  # its worker stores what is kept

    queue.cancel(result.id)
    result.refresh()

    assert (result.status, result.attempts) == (TaskResultStatus.FAILED, 0)
    assert [error.exception_class.__name__ for error in result.errors] == ["JobCancelled"]
    queue.control.resume()


def test_what_is_not_a_task_of_this_project_does_not_exist(backend: Any, on: Any, queue: sync.JobQueue) -> None:
    @queue.job
    def plain(number: int) -> None: ...

    strange = queue.push({"args": 1, "kwargs": 2}, JobName("django_tasks.add", dict[str, int]))

    for result_id in ("123", "", "x" * 10_000, "\ud800", plain.push(1).id, strange.id):
        with pytest.raises(TaskResultDoesNotExist, match="no queue of 'default' has a task"):
            backend.get_result(result_id)
    with pytest.raises(TaskResultMismatch):
        django_tasks.fails.get_result(on(django_tasks.add).enqueue(1).id)
    work(queue)


@pytest.mark.parametrize(
    ("priority", "is_stored_as", "reads"),
    [(-100, "low", -100), (-1, "low", -100), (0, "normal", 0), (1, "high", 100), (5, "high", 5)],
)
def test_201_priorities_become_three(
    priority: int, is_stored_as: str, reads: int, on: Any, queue: sync.JobQueue
) -> None:
    result = on(django_tasks.urgent if priority == 5 else django_tasks.add, priority=priority).enqueue()

    info = queue.get(result.id)
    assert info is not None
    assert info.priority is Priority(is_stored_as)
    assert default_task_backend.get_result(result.id).task.priority == reads


def test_run_after_delays_it(on: Any, queue: sync.JobQueue) -> None:
    after = timezone.now() + timedelta(hours=1)
    result = on(django_tasks.add, run_after=after).enqueue(1)

    info = queue.get(result.id)
    assert info is not None
    assert info.state is State.DELAYED
    assert info.due_at is not None
    assert abs(info.due_at - after) < timedelta(milliseconds=2)
    found = default_task_backend.get_result(result.id)
    assert (found.status, found.task.run_after) == (TaskResultStatus.READY, info.due_at)


def test_without_time_zones_a_projects_times_are_in_its_own(on: Any, queue: sync.JobQueue) -> None:
    with override_settings(USE_TZ=False):
        now = datetime.now(ZoneInfo("Europe/Berlin")).replace(tzinfo=None)
        after = now + timedelta(hours=1)
        result = on(django_tasks.add, run_after=after).enqueue(1)
        result.refresh()

        info = queue.get(result.id)
        assert info is not None
        assert info.due_at is not None
        assert timezone.make_naive(info.due_at) - after < timedelta(milliseconds=2)
        assert abs(result.enqueued_at - now) < timedelta(minutes=1)


def test_arguments_are_json_and_stay_exact(on: Any, queue: sync.JobQueue) -> None:
    result = on(django_tasks.add).enqueue((1, 2), b={"big": 2**70, "bytes": b"text", "none": None})

    found = default_task_backend.get_result(result.id)
    assert found.args == [[1, 2]]
    assert found.kwargs == {"b": {"big": 2**70, "bytes": "text", "none": None}}
    with pytest.raises(TypeError, match="Unsupported type"):
        on(django_tasks.add).enqueue(datetime.now(UTC))
    with pytest.raises(InvalidTask, match="the limit is 524,288"):
        on(django_tasks.add).enqueue("x" * 600_000)
    with pytest.raises(InvalidTask):
        on(django_tasks.add).enqueue("\ud800")
    assert sum(queue.control.counts().ready.values()) == 1
    big = on(django_tasks.add).enqueue(2**70, b=1)
    work(queue)
    assert default_task_backend.get_result(big.id).return_value == 2**70 + 1


def test_an_invalid_task_is_refused_when_it_is_made_and_when_it_is_enqueued(on: Any, store: Store) -> None:
    def local() -> None: ...

    with pytest.raises(InvalidTask, match="module level"):
        task(queue_name=store.queue_name)(local)
    with pytest.raises(InvalidTask, match="whole number between -100 and 100"):
        on(django_tasks.add, priority=101)
    with pytest.raises(InvalidTask, match="aware datetime"):
        on(django_tasks.add, run_after=datetime(2030, 1, 1))
    with pytest.raises(InvalidTask, match="Queue 'other' is not valid for backend"):
        django_tasks.add.using(queue_name="other")
    with pytest.raises(InvalidTask, match="Queue 'default' is not valid for backend"):
        django_tasks.add.enqueue(1)


# Signals


@contextmanager
def heard() -> Iterator[list[Any]]:
    """What receivers of the three signals get: the name of the signal, and the fields of the result."""
    signals: list[Any] = []
    named = {"enqueued": task_enqueued, "started": task_started, "finished": task_finished}

    def receiver_of(name: str) -> Any:
        def receive(sender: Any, task_result: Any, **kwargs: Any) -> None:
            assert sender is Backend
            signals.append((name, task_result.status.value, task_result.attempts, dataclasses.asdict(task_result)))
            raise RuntimeError("a receiver's error is logged, and changes nothing")

        return receive

    receivers = {name: receiver_of(name) for name in named}
    for name, signal in named.items():
        signal.connect(receivers[name])
    yield signals
    for name, signal in named.items():
        signal.disconnect(receivers[name])


@pytest.mark.parametrize("each", [django_tasks.add, django_tasks.add_async])
def test_signals_follow_a_task_and_a_receiver_that_raises_changes_nothing(
    each: Any, on: Any, queue: sync.JobQueue
) -> None:
    with heard() as signals:
        result = on(each).enqueue(1, 2)
        work(queue)

    assert [each[:3] for each in signals] == [
        ("enqueued", "READY", 0),
        ("started", "RUNNING", 1),
        ("finished", "SUCCESSFUL", 1),
    ]
    finished = signals[-1][-1]
    assert (finished["id"], finished["_return_value"], finished["args"]) == (result.id, 3, [1, 2])
    assert finished["started_at"] <= finished["finished_at"]
    result.refresh()
    assert result.return_value == 3


def test_a_task_has_finished_when_it_is_not_tried_again(on: Any, queue: sync.JobQueue) -> None:
    with heard() as signals:
        on(django_tasks.fails).enqueue("always")
        work(queue)

    assert [each[:3] for each in signals] == [
        ("enqueued", "READY", 0),
        ("started", "RUNNING", 1),
        ("started", "RUNNING", 2),
        ("started", "RUNNING", 3),
        ("finished", "FAILED", 3),
    ]
    (error,) = signals[-1][-1]["errors"]
    assert error["exception_class_path"] == "builtins.ValueError"


# Transactions and connections


def rolled_back(add: Any, number: int) -> Any:
    """The result of a task that was enqueued in a transaction, or a savepoint, that was rolled back."""
    with transaction.atomic():
        result = add.enqueue(number)
        transaction.set_rollback(True)
    return result


def test_on_commit_a_task_is_enqueued_after_the_commit_and_after_a_rollback_not_at_all(store: Store) -> None:
    with a_backend(store, enqueue_on_commit=True) as backend, heard() as signals:
        add, queue = django_tasks.add.using(queue_name=store.queue_name), backend.queue(store.queue_name)
        with transaction.atomic():
            result = add.enqueue(1)
            assert (result.status, result.enqueued_at) == (TaskResultStatus.READY, None)
            assert queue.get(result.id) is None
        assert result.enqueued_at is not None
        assert backend.get_result(result.id).status == TaskResultStatus.READY

        outer = rolled_back(add, 2)
        with transaction.atomic():
            inner = rolled_back(add, 3)
            with pytest.raises(InvalidTask):
                add.enqueue("x" * 600_000)  # known before the commit
        assert [queue.get(each.id) for each in (outer, inner)] == [None, None]
        assert [name for name, *_ in signals] == ["enqueued"]
        assert queue.get(add.enqueue(4).id) is not None  # without a transaction, at once


def test_by_default_a_task_does_not_wait_for_the_commit(on: Any, queue: sync.JobQueue) -> None:
    with transaction.atomic():
        result = on(django_tasks.add).enqueue(1)
        assert queue.get(result.id) is not None


def test_a_push_that_fails_after_the_commit_is_an_error_that_has_the_job() -> None:
    away = {"url": "redis://127.0.0.1:1/0", "deadline": 0.05, "enqueue_on_commit": True}
    backend = {"BACKEND": "redisjobs.contrib.django.Backend", "OPTIONS": away}
    with override_settings(TASKS={"default": backend}), pytest.raises(Unavailable) as raised, transaction.atomic():
        result = django_tasks.add.enqueue(1)

    assert [job.job_id for job in raised.value.jobs] == [result.id]
    assert result.enqueued_at is None


def test_connections_are_closed_around_each_job_of_any_queue(store: Store, notes: list[Any]) -> None:
    queue = sync.JobQueue(store.driver, store.queue_name, middleware=[Connections()])
    left = list[Any]()

    @queue.job
    def handler(number: int) -> None:
        left.append(connection.connection)
        connection.ensure_connection()
        left.append(connection.connection)

    @queue.job
    async def async_handler() -> None:
        await sync_to_async(handler)(1)

    for number in range(2):
        handler.push(number)
        work(queue)
    for _ in range(2):
        async_handler.push()
        work(queue)

    assert left[::2] == [None] * 4
    assert None not in left[1::2]


# Settings


def test_a_worker_finds_a_task_by_its_path_but_imports_no_module_outside_of_the_apps(
    on: Any, queue: sync.JobQueue
) -> None:
    from redisjobs.contrib.django import tasks

    assert tasks.find("django_tasks.add") is django_tasks.add
    for path in ("antigravity.geohash", "django_tasks.seen", "django_tasks.nothing", "nothing", "os.path.join"):
        assert tasks.find(path) is None
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("code", ["import nothing_like_this", "from sys import nothing", "1 / 0", "def"])
def test_a_task_whose_module_cannot_be_imported_waits_as_an_unknown_one_and_the_log_says_why(
    code: str,
    on: Any,
    queue: sync.JobQueue,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    import redisjobs.contrib.django as app
    from redisjobs.contrib.django import tasks

    (tmp_path / "lacking.py").write_text(code)
    monkeypatch.setattr(app, "__path__", [*app.__path__, str(tmp_path)])
    producer = sync.JobQueue(queue.driver, name=queue.name)
    job = producer.push(
        {"args": [], "kwargs": {}}, JobName("redisjobs.contrib.django.lacking.add", dict[str, Any])
    )
    other = on(django_tasks.add).enqueue(1, b=2)

    work(queue)

    info = queue.get(job.id)
    assert info is not None
    assert info.state is State.DELAYED
    other.refresh()
    assert other.return_value == 3
    said = "the module of task redisjobs.contrib.django.lacking.add can't be imported"
    assert [record.exc_info is not None for record in caplog.records if record.message == said] == [True]

    caplog.clear()
    assert tasks.find("redisjobs.contrib.django.nowhere.add") is None
    assert tasks.find("redisjobs.contrib.django.tasks.nothing") is None
    assert not caplog.records


def test_the_test_kit_runs_a_task_that_was_not_enqueued_before(on: Any, queue: sync.JobQueue) -> None:
    with Jobs(queue) as jobs:
        jobs.crash("django_tasks.add")
        assert jobs.run({"args": [1], "kwargs": {"b": 2}}, "django_tasks.add").kind == "crashed"
        assert jobs.run({"args": [1], "kwargs": {"b": 2}}, "django_tasks.add").result == 3


def test_a_drain_of_the_test_kit_runs_what_a_task_enqueues_on_a_queue_that_had_none() -> None:
    default = {
        "BACKEND": "redisjobs.contrib.django.Backend",
        "QUEUES": ["bulk", "mail"],
        "OPTIONS": {"url": "memory://"},
    }
    with override_settings(TASKS={"default": default}), Jobs() as jobs:
        jobs.use(*map(default_task_backend.queue, ["bulk", "mail"]))
        django_tasks.enqueues.using(queue_name="bulk").enqueue("mail")
        assert jobs.drain().completed == 2


@pytest.mark.parametrize(
    ("backend", "ids", "says"),
    [
        ({"OPTIONS": {"url": "memory://", "keep_result": timedelta(days=1)}}, [], ""),
        ({}, ["redisjobs.E001"], "OPTIONS has no url: give one"),
        ({"OPTIONS": {"url": "http://x"}}, ["redisjobs.E001"], "TASKS['default'], queue 'default'"),
        ({"OPTIONS": {"url": "memory://", "colour": 1}}, ["redisjobs.E001"], "colour"),
        ({"OPTIONS": {"url": "memory://", "keep_result": -1}}, ["redisjobs.E001"], "keep_result=-1"),
        ({"QUEUES": ["a b"], "OPTIONS": {"url": "memory://"}}, ["redisjobs.E001"], "'a b' can't name a queue"),
        ({"QUEUES": ["a.b"], "OPTIONS": {"url": "memory://"}}, ["redisjobs.E002"], "can't name queue 'a.b'"),
        ({"ALIAS": "a.b", "OPTIONS": {"url": "memory://"}}, ["redisjobs.E002"], "'default' of TASKS['a.b']"),
        ({"QUEUES": [], "OPTIONS": {"url": "memory://"}}, ["redisjobs.W001"], "names no QUEUES"),
        ({"OPTIONS": {"url": "memory://", "enqueue_on_commit": "x"}}, ["redisjobs.E003"], "no database of this"),
    ],
)
def test_a_check_says_what_is_wrong_with_the_settings(backend: dict[str, Any], ids: list[str], says: str) -> None:
    named = {backend.get("ALIAS", "default"): {"BACKEND": "redisjobs.contrib.django.Backend", **backend}}
    with override_settings(TASKS={"default": {"BACKEND": "django.tasks.backends.dummy.DummyBackend"}} | named):
        found = [each for each in checks.run_checks() if str(each.id).startswith("redisjobs")]

        assert [each.id for each in found] == ids
        assert all(says in each.msg for each in found)
        if ids == ["redisjobs.E001"]:
            with pytest.raises(InvalidTaskBackend):
                default_task_backend.queue("default" if "QUEUES" not in backend else "a b")


def test_threads_share_a_queue_and_other_settings_have_another(store: Store) -> None:
    with a_backend(store) as backend:
        queue = backend.queue(store.queue_name)
        again = asyncio.run(asyncio.to_thread(lambda: task_backends["default"].queue(store.queue_name)))
    with a_backend(store, keep_result=60) as other:
        assert other.queue(store.queue_name) is not queue
    assert again is queue


@pytest.mark.parametrize("alias", ["default", "tasks", "apps", "django"])
def test_the_command_line_finds_the_queues_of_a_backend_by_any_alias(alias: str) -> None:
    from redisjobs.cli.errors import Mistake
    from redisjobs.cli.target import load

    named = {
        "BACKEND": "redisjobs.contrib.django.Backend",
        "QUEUES": ["bulk", "mail"],
        "OPTIONS": {"url": "memory://"},
    }
    with override_settings(TASKS={"default": named, alias: named}):
        assert load(f"redisjobs.contrib.django.worker:{alias}.mail") is task_backends[alias].queue("mail")
        with pytest.raises(Mistake, match="no attribute 'other'; its queues: bulk, mail"):
            load(f"redisjobs.contrib.django.worker:{alias}.other")
        with pytest.raises(Mistake, match="no attribute 'nothing'"):
            load("redisjobs.contrib.django.worker:nothing.mail")


def test_the_command_refuses_a_queue_that_no_backend_has(monkeypatch: pytest.MonkeyPatch) -> None:
    from django.core.management.base import CommandError

    for set_by_the_command in ("PYTHONPATH", "REDISJOBS_APP"):
        monkeypatch.setenv(set_by_the_command, "")
    with pytest.raises(CommandError, match="no redisjobs backend in TASKS has a queue 'bulk'; there are default"):
        call_command("redisjobs", "worker", "--queue", "bulk")


@pytest.mark.parametrize(
    ("typed", "runs"),
    [
        ([], ["default.bulk", "default.mail"]),
        (["--health=127.0.0.1:0"], ["default.bulk", "default.mail"]),
        (["--url", "redis://127.0.0.1:1/0"], ["default.bulk", "default.mail"]),
        (["--concurrency", "5", "django_tasks:own"], ["django_tasks:own"]),
        (["--queue", "mail=2", "django_tasks:own"], ["default.mail=2", "django_tasks:own"]),
    ],
)
def test_a_worker_runs_all_queues_unless_some_are_named_wherever_that_is_among_its_arguments(
    typed: list[str], runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from redisjobs.cli import worker

    started = list[Sequence[str]]()

    def load_all(targets: Sequence[str], *others: object) -> None:
        started.append(targets)
        raise SystemExit

    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setenv("REDISJOBS_APP", "not:this")
    monkeypatch.setattr(worker, "load_all", load_all)
    for changes_the_process in ("configure", "ForcedEnd"):
        monkeypatch.setattr(worker, changes_the_process, lambda *_, **options: None)
    default = {
        "BACKEND": "redisjobs.contrib.django.Backend",
        "QUEUES": ["bulk", "mail"],
        "OPTIONS": {"url": "memory://"},
    }
    with override_settings(TASKS={"default": default}), pytest.raises(SystemExit):
        call_command("redisjobs", "worker", *typed)

    assert [place.removeprefix("redisjobs.contrib.django.worker:") for place in started[0]] == runs


def test_the_command_passes_on_what_it_does_not_know(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "")
    with pytest.raises(SystemExit, match="0"):
        call_command("redisjobs", "stats", "--help")

    assert "redisjobs stats" in capsys.readouterr().out


def test_the_page_shows_a_queue_of_ones_own_as_it_is_made(project: Path) -> None:
    page = (project / "docs/how-to/use-with-django.md").read_text("utf-8")
    (code,) = [code for code in blocks(page, "py") if "Connections()" in code]
    names: dict[str, Any] = {}

    exec(code, names)

    assert [type(each) for each in names["queue"].middleware] == [Connections]

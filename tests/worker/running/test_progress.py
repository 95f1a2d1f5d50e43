"""What a handler says while it runs: how far it is, and that it needs more time."""

import math
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar, cast

import anyio
import anyio.to_thread
import process_handlers as handlers
import pytest
from each_setting import store as store
from fleet import has_ended
from process_handlers import Do
from results import drain
from store import Store, eventually, lease_at

from redisjobs import JobContext, JobQueue, Middleware, Progress, State, Worker, no_retry
from redisjobs.events.middleware import RunningJob
from redisjobs.model.codec import decode_progress, encode_progress
from redisjobs.model.progress import HandlerMessage, progress_of
from redisjobs.worker.running.deadline import Deadline, Deadlines, Over
from redisjobs.worker.running.execution import Execution, Reported
from redisjobs.worker.running.reporter import Reporter
from redisjobs.worker.source.settler import Settler


class Listener:
    """Keeps what a handler says."""

    def __init__(self) -> None:
        self.heard: list[HandlerMessage] = []

    def handle(self, message: HandlerMessage) -> None:
        self.heard.append(message)


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
def context(listener: Listener) -> JobContext:
    return context_of(sink=listener)


def context_of(**changes: Any) -> JobContext:
    told: dict[str, Any] = {
        "job_id": "j", "job_name": "Work", "queue_name": "q", "attempt": 1, "deliveries": 1, "worker_id": "w",
        "queued_ms": 0, "scheduled_ms": None, "next_scheduled_ms": None, "state": None, "read_headers": dict,
    }  # fmt: skip
    return JobContext(**told | changes)


# What is said


class Word(str):
    """Text of a class of its own."""


@pytest.mark.parametrize(
    ("said", "note", "progress"),
    [
        ((0.4,), None, Progress(0.4)),
        ((0,), None, Progress(0.0)),
        ((1,), None, Progress(1.0)),
        ((1 + 1e-12,), None, Progress(1.0)),  # as a sum of fractions may be
        ((Fraction(1, 4),), None, Progress(0.25)),
        ((Decimal("0.25"),), None, Progress(0.25)),
        ((12, 30), None, Progress(0.4, 12, 30)),
        ((1.5, 3), None, Progress(0.5, 1.5, 3)),
        ((0, 0), None, Progress(1.0, 0, 0)),
        ((40, 30), None, Progress(1.0, 40, 30)),  # the total was an estimate
        ((12, None), None, Progress(None, 12)),
        ((0.4, "page 12 of 30"), None, Progress(0.4, note="page 12 of 30")),
        ((0.4,), "page 12 of 30", Progress(0.4, note="page 12 of 30")),
        ((12, 30, "pages"), None, Progress(0.4, 12, 30, "pages")),
        (("uploading",), None, Progress(note="uploading")),
        ((), "uploading", Progress(note="uploading")),
        ((0.5,), "two\nlines\x1b[2J", Progress(0.5, note=r"two\nlines\x1b[2J")),
        ((0.5,), "half of \ud800", Progress(0.5, note=r"half of \ud800")),
        ((0.5,), "x" * 1_000_000, Progress(0.5, note="x" * 199 + "…")),
        ((0.5,), Word("word"), Progress(0.5, note="word")),
    ],
)
def test_what_is_said_is_a_fraction_or_done_and_total_and_a_note(
    said: tuple[Any, ...], note: str | None, progress: Progress
) -> None:
    made = progress_of(said, note, None)

    assert made == progress
    assert type(made.note) is str
    assert made.note.encode() is not None


@pytest.mark.parametrize(
    ("said", "note", "kind", "says"),
    [
        ((1.5,), None, ValueError, "progress\\(1.5\\): give a fraction from 0 to 1"),
        ((12,), None, ValueError, "the total, as progress\\(12, 30\\)"),
        ((-0.1,), None, ValueError, "fraction"),
        ((float("nan"),), None, ValueError, "fraction"),
        ((True,), None, ValueError, "True is no number"),
        ((None,), None, ValueError, "None is no number"),
        ((1j,), None, ValueError, "1j is no number"),
        (([0.5],), None, ValueError, "no number"),
        ((-1, 30), None, ValueError, "-1 is no amount"),
        ((None, 30), None, ValueError, "None is no number"),
        ((1, -30), None, ValueError, "-30 is no amount"),
        ((1, float("inf")), None, ValueError, "inf is no amount"),
        ((float("nan"), 3), None, ValueError, "nan is no amount"),
        ((1, 10**400), None, ValueError, "no amount"),
        (("12", 30), None, ValueError, "'12' is no"),
        ((1, 2, 3), None, TypeError, "progress\\(1, 2, 3\\)"),
        ((), None, TypeError, "says nothing"),
        ((0.5, "a"), "b", TypeError, "a note already"),
        ((0.5,), 5, ValueError, "note=5: give text"),
        ((0.5,), b"bytes", ValueError, "note=b'bytes': give text"),
    ],
)
def test_nonsense_is_an_error_that_says_what_to_give(
    said: tuple[Any, ...], note: Any, kind: type[Exception], says: str
) -> None:
    with pytest.raises(kind, match=says):
        progress_of(said, note, None)


def test_a_note_alone_leaves_the_numbers_and_numbers_alone_take_the_note_away(
    context: JobContext, listener: Listener
) -> None:
    context.progress(12, 30, "pages")
    context.progress(note="covers")
    context.progress(13, 30)

    assert listener.heard == [
        Progress(0.4, 12, 30, "pages"),
        Progress(0.4, 12, 30, "covers"),
        Progress(13 / 30, 13, 30),
    ]


def test_a_context_that_no_one_listens_to_takes_all_of_it() -> None:
    context = context_of()
    context.progress(0.5)
    context.extend(5)
    assert list(context.track([1, 2])) == [1, 2]
    with pytest.raises(ValueError, match="duration=-1"):
        context.extend(-1)


# As JSON


@pytest.mark.parametrize(
    ("progress", "raw"),
    [
        (Progress(0.4, 12, 30, "käse"), '{"fraction":0.4,"done":12,"total":30,"note":"käse"}'),
        (Progress(0.25), '{"fraction":0.25}'),
        (Progress(None, 12), '{"done":12}'),
        (Progress(0.0, 0, 3), '{"fraction":0.0,"done":0,"total":3}'),
        (Progress(note="uploading"), '{"note":"uploading"}'),
    ],
)
def test_progress_is_json_without_what_was_not_said(progress: Progress, raw: str) -> None:
    assert encode_progress(progress) == raw.encode()
    assert decode_progress(raw.encode()) == progress


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"null", b"5", b"[]", b"{}", b"{", b"\xff", b'{"fraction":2}', b'{"fraction":"0.5"}', b'{"total":5}',
        b'{"done":true}', b'{"done":-1,"total":5}', b'{"fraction":0.5,"note":5}', b"[" * 100_000, b'{"other":1}',
        b'{"fraction":NaN}', b'{"fraction":1e999}', None,
    ],
)  # fmt: skip
def test_what_was_written_with_redis_cli_that_is_no_progress_is_read_as_none(raw: bytes | None) -> None:
    assert decode_progress(raw) is None


def test_of_what_was_written_with_redis_cli_the_numbers_count_and_the_note_is_made_fit() -> None:
    assert decode_progress(b'{"fraction":0.1,"done":1,"total":2}') == Progress(0.5, 1, 2)
    assert decode_progress(b'{"fraction":0.1,"note":"a\\u001bb"}') == Progress(0.1, note=r"a\x1bb")


# Tracking


def seen_to(heard: list[HandlerMessage]) -> list[tuple[float | None, float | None]]:
    return [(each.done, each.total) for each in heard if isinstance(each, Progress)]


def test_a_loop_over_tracked_items_reports_each_as_the_next_is_asked_for(
    context: JobContext, listener: Listener
) -> None:
    known = []
    for item in context.track("abc", note="letters"):
        known.append((item, seen_to(listener.heard)[-1]))

    assert known == [("a", (0, 3)), ("b", (1, 3)), ("c", (2, 3))]
    assert listener.heard[-1] == Progress(1.0, 3, 3, "letters")


def test_items_without_a_length_are_counted_or_have_the_total_that_is_given(
    context: JobContext, listener: Listener
) -> None:
    list(context.track(iter("ab")))
    list(context.track(iter("ab"), 2))
    list(context.track([], note="none"))

    assert seen_to(listener.heard) == [(0, None), (1, None), (2, None), (0, 2), (1, 2), (2, 2), (0, 0)]
    assert listener.heard[-1] == Progress(1.0, 0, 0, "none")


def test_what_no_loop_can_go_over_and_a_total_that_is_none_are_errors_at_the_call(context: JobContext) -> None:
    with pytest.raises(TypeError, match=r"track\(5\): give it what `for`"):
        context.track(5)  # type: ignore[call-overload]  # pyright: ignore
    with pytest.raises(ValueError, match="-1 is no amount"):
        context.track([], -1)
    with pytest.raises(ValueError, match="note=5"):
        context.track([], note=5)  # type: ignore[call-overload]  # pyright: ignore


@pytest.mark.anyio
async def test_a_loop_over_items_that_come_asynchronously_reports_them_too(
    context: JobContext, listener: Listener
) -> None:
    async def letters() -> AsyncIterator[str]:
        yield "a"
        yield "b"

    got = [letter async for letter in context.track(letters(), 2)]

    assert got == ["a", "b"]
    assert seen_to(listener.heard) == [(0, 2), (1, 2), (2, 2)]


# When it is published


class Wake:
    """In the place of a wakeup: counts."""

    def __init__(self) -> None:
        self.count = 0

    def wake(self) -> None:
        self.count += 1


def a_run() -> Execution:
    """A job that runs, and has reported progress."""
    settings = Worker(JobQueue("memory://", "q")).settings
    run = Execution(lease_at(2, "1-1", 1, "a"), settings, cast(Any, None), cast(Any, None))
    run.reported = Reported(Progress(0.1))
    return run


class Later:
    """Calls that an event loop would make, when the test says so."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], object]] = []

    def __call__(self, call: Callable[[], object]) -> None:
        self.calls.append(call)

    def make(self) -> None:
        while self.calls:
            self.calls.pop(0)()


@dataclass
class Desk:
    """A reporter, and all that it has to do with."""

    reporter: Reporter
    wake: Wake
    later: Later

    def note(self, *runs: Execution) -> float:
        """Note these; since when they wait, at the latest."""
        for run in runs:
            assert run.reported is not None
            run.reported.is_noted = True
            self.reporter.note(run)
        self.later.make()
        return time.monotonic()


@pytest.fixture
def desk() -> Desk:
    wake, later = Wake(), Later()
    return Desk(Reporter(later, wake), wake, later)  # type: ignore[arg-type]  # pyright: ignore


def test_what_was_said_is_there_to_take_at_once_and_once(desk: Desk) -> None:
    run = a_run()
    now = desk.note(run)

    assert run.reported is not None
    assert desk.reporter.take(now, 500) == [run]
    assert (run.reported.is_noted, run.reported.published_at) == (False, now)
    assert desk.reporter.take(now, 500) == []


def test_a_job_is_published_at_most_four_times_a_second(desk: Desk) -> None:
    run = a_run()
    first = desk.note(run)
    taken = 0
    for step in range(100):  # one second, with news at all times
        taken += len(desk.reporter.take(first + step / 100, 500))
        if run.reported and not run.reported.is_noted:
            desk.note(run)

    assert taken == 4


def test_news_wake_who_publishes_for_half_a_second_later_once_however_many_jobs_have_some(desk: Desk) -> None:
    assert desk.reporter.late_at == float("inf")
    before = time.monotonic()
    runs = [a_run() for _ in range(10)]
    after = desk.note(*runs)

    assert before + 0.5 <= desk.reporter.late_at <= after + 0.5
    assert desk.wake.count == 1
    assert desk.reporter.take(desk.reporter.late_at, 500) == runs
    assert desk.reporter.late_at == float("inf")
    desk.note(runs[0])
    assert desk.wake.count == 2


def test_no_more_are_taken_than_asked_for_and_who_waits_longest_goes_first(desk: Desk) -> None:
    runs = [a_run() for _ in range(5)]
    now = desk.note(*runs)

    assert desk.reporter.take(now, 3) == runs[:3]
    assert desk.reporter.take(now, 3) == runs[3:]


def test_of_a_job_that_is_over_nothing_is_published(desk: Desk) -> None:
    early, meanwhile, late, alive = (a_run() for _ in range(4))
    early.over = True
    now = desk.note(early, meanwhile, late, alive)
    meanwhile.over = True
    desk.reporter.forget(late)

    assert desk.reporter.take(now, 500) == [alive]
    assert desk.reporter.late_at == float("inf")


# In a worker


@dataclass
class Work:
    job_name: ClassVar[str] = "Work"
    number: int = 0


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Execution]:
    """All runs of the test that have said how far they are, as their owner heard of them."""
    reported, heard = Settler.reported, list[Execution]()

    def also(settler: Settler, run: Execution) -> None:
        heard.append(run)
        reported(settler, run)

    monkeypatch.setattr(Settler, "reported", also)
    return heard


async def error_of(queue: JobQueue) -> str:
    """By what the one dead job failed."""
    (dead,) = await queue.control.jobs(State.DEAD)
    return dead.error


@pytest.mark.anyio
@pytest.mark.parametrize("place", ["loop", "thread", "thread of its own"])
async def test_a_run_has_what_its_handler_said_last_and_its_owner_is_not_told_of_each_time(
    queue: JobQueue, runs: list[Execution], place: str
) -> None:
    if place == "loop":

        @queue.register(Work)
        async def work(_: Work, context: JobContext) -> None:
            for _item in context.track(range(1000), note="items"):
                pass

    elif place == "thread":

        @queue.register(Work)
        def work_in_thread(_: Work, context: JobContext) -> None:
            for _item in context.track(range(1000), note="items"):
                pass

    else:

        @queue.register(Work)
        async def work_in_its_own(_: Work, context: JobContext) -> None:
            await anyio.to_thread.run_sync(list, context.track(range(1000), note="items"))

    await queue.push(Work())
    await drain(queue)

    assert len(runs) < 100  # once, and again for each time that it is sent meanwhile: 4 times a second
    assert runs[-1].progress == Progress(1.0, 1000, 1000, "items")


@pytest.mark.anyio
async def test_what_is_said_once_the_run_is_over_is_dropped(queue: JobQueue, runs: list[Execution]) -> None:
    kept: list[JobContext] = []

    @queue.register(Work)
    async def work(_: Work, context: JobContext) -> None:
        context.progress(0.5)
        kept.append(context)

    await queue.push(Work())
    await drain(queue)
    kept[0].progress(0.75)
    kept[0].extend(5)

    (run,) = runs
    assert run.progress == Progress(0.5)


@pytest.mark.anyio
async def test_nonsense_that_a_handler_says_is_its_failure(queue: JobQueue) -> None:
    @queue.register(Work, retry=no_retry())
    async def work(_: Work, context: JobContext) -> None:
        context.progress(12)

    await queue.push(Work())
    await drain(queue)

    assert (await error_of(queue)).startswith("ValueError: progress(12): give a fraction from 0 to 1")


# Extending


@pytest.mark.anyio
@pytest.mark.parametrize("given", [0.3, timedelta(milliseconds=300)])
async def test_a_timeout_that_is_extended_again_and_again_is_not_over(
    queue: JobQueue, given: float | timedelta
) -> None:
    @queue.register(Work, timeout=0.3, retry=no_retry())
    async def work(_: Work, context: JobContext) -> None:
        for _step in range(10):
            context.extend(given)
            await anyio.sleep(0.05)

    await queue.push(Work())
    await drain(queue)

    assert await queue.control.jobs(State.DEAD) == []


@pytest.mark.anyio
async def test_a_run_that_outlasts_what_it_extended_to_fails_by_the_time_it_was_given(queue: JobQueue) -> None:
    @queue.register(Work, timeout=0.05, retry=no_retry())
    async def work(_: Work, context: JobContext) -> None:
        context.extend(0.2)
        await anyio.sleep_forever()

    await queue.push(Work())
    await drain(queue)

    said, _, rest = (await error_of(queue)).partition(" s, ")
    assert said.startswith("JobTimeout: the handler was still running after 0.2")
    assert rest == "to which it had extended its timeout of 0.05 s"


@pytest.mark.anyio
async def test_an_extension_never_shortens_and_without_a_timeout_changes_nothing(queue: JobQueue) -> None:
    @queue.job(timeout=600, retry=no_retry())
    async def limited(context: JobContext) -> None:
        context.extend(0)
        await anyio.sleep(0.02)

    @queue.job(retry=no_retry())
    async def unlimited(context: JobContext) -> None:
        context.extend(0)
        await anyio.sleep(0.02)

    @queue.job(stalled_after=600, retry=no_retry())
    async def watched(context: JobContext) -> None:
        context.extend(0)
        await anyio.sleep(0.02)

    for job in (limited, unlimited, watched):
        await job.push()
    await drain(queue)

    assert await queue.control.jobs(State.DEAD) == []


@pytest.mark.slow
@pytest.mark.anyio
async def test_a_sync_handler_extends_its_time_and_is_told_when_that_is_over(queue: JobQueue) -> None:
    told, steps = threading.Event(), list[bool]()

    @queue.register(Work, timeout=0.5, retry=no_retry())  # time enough for its thread to begin on a busy machine
    def work(_: Work, context: JobContext) -> None:
        context.extend(1)
        until = time.monotonic() + 0.7
        while time.monotonic() < until:
            steps.append(context.cancelled)
            time.sleep(0.01)
        while not context.cancelled:
            time.sleep(0.005)
        told.set()

    await queue.push(Work())
    await drain(queue)

    assert told.wait(5)
    assert not any(steps)
    assert "to which it had extended its timeout of 0.5 s" in await error_of(queue)


# Stalling


@pytest.mark.anyio
async def test_a_run_that_reports_no_progress_for_so_long_is_cancelled_and_retried(queue: JobQueue) -> None:
    attempts = []

    @queue.register(Work, stalled_after=0.05, retry=no_retry())
    async def work(_: Work, context: JobContext) -> None:
        attempts.append(context)
        await anyio.sleep_forever()

    await queue.push(Work())
    await drain(queue)

    assert await error_of(queue) == "JobStalled: the handler reported no progress for 0.05 s"
    assert [context.cancelled for context in attempts] == [True]


@pytest.mark.anyio
async def test_a_run_that_reports_progress_is_not_stalled_until_it_stops_doing_so(queue: JobQueue) -> None:
    reached = []

    @queue.register(Work, stalled_after=0.3, retry=no_retry())
    async def work(_: Work, context: JobContext) -> None:
        for step in context.track(range(10)):
            await anyio.sleep(0.05)
            reached.append(step)
        await anyio.sleep_forever()

    await queue.push(Work())
    await drain(queue)

    assert len(reached) == 10
    assert (await error_of(queue)).startswith("JobStalled")


@pytest.mark.anyio
async def test_a_sync_handler_that_reports_no_progress_is_told_and_its_outcome_taken_at_once(
    queue: JobQueue,
) -> None:
    told, go = threading.Event(), threading.Event()

    @queue.register(Work, stalled_after=0.5, retry=no_retry())
    def work(_: Work, context: JobContext) -> None:
        context.progress(1, 2)
        while not context.cancelled:
            time.sleep(0.005)
        told.set()
        go.wait(20)

    await queue.push(Work())
    await drain(queue)

    assert (await error_of(queue)).startswith("JobStalled")
    assert told.wait(5)
    go.set()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("timeout", "stalled_after", "kind"), [(0.05, 60, "JobTimeout"), (60, 0.05, "JobStalled")]
)
async def test_of_a_timeout_and_a_stall_the_first_counts(
    queue: JobQueue, timeout: float, stalled_after: float, kind: str
) -> None:
    @queue.register(Work, timeout=timeout, stalled_after=stalled_after, retry=no_retry())
    async def work(_: Work, context: JobContext) -> None:
        if kind == "JobTimeout":
            context.progress(0.5)
        else:
            context.extend(60)
        try:
            await anyio.sleep_forever()
        finally:
            context.extend(600)  # too late, both
            context.progress(0.6)

    await queue.push(Work())
    await drain(queue)

    assert (await error_of(queue)).startswith(kind)


@pytest.mark.anyio
async def test_progress_does_not_outlast_a_timeout_nor_an_extension_a_stall(queue: JobQueue) -> None:
    @queue.job(timeout=0.1, stalled_after=60, retry=no_retry())
    async def busy(context: JobContext) -> None:
        while True:
            context.progress(0.5)
            await anyio.sleep(0.005)

    @queue.job(timeout=0.05, stalled_after=0.1, retry=no_retry())
    async def stuck(context: JobContext) -> None:
        while True:
            context.extend(60)
            await anyio.sleep(0.005)

    await busy.push()
    await stuck.push()
    await drain(queue)

    errors = {dead.name: dead.error.partition(":")[0] for dead in await queue.control.jobs(State.DEAD)}
    assert errors == {"busy": "JobTimeout", "stuck": "JobStalled"}


def test_a_deadline_moves_with_each_report_and_never_earlier() -> None:
    deadline = Deadline(None, 30)
    first, now = deadline.at, time.monotonic()
    deadline.progressed(now + 2)

    assert first <= now + 30
    assert deadline.at == now + 32


def test_a_deadline_that_threads_extend_is_the_latest_that_they_said() -> None:
    deadline = Deadline(1, None)
    first, now = deadline.at, time.monotonic()
    threads = [threading.Thread(target=deadline.extend, args=(seconds, now)) for seconds in (99, 5, 0)]
    for thread in threads:
        thread.start()
        thread.join()

    assert 97.9 < deadline.at - first < 99


@pytest.mark.anyio
async def test_each_run_ends_at_its_own_deadline_however_many_there_are() -> None:
    running, ended = list[tuple[Deadline, Over]](), list[float]()

    def run_for(seconds: float) -> Deadline:
        def over(_: float) -> float:
            ended.append(seconds)
            running.remove(run)
            return math.inf

        running.append(run := (Deadline(seconds, None), over))
        return run[0]

    deadlines = Deadlines(lambda: list(running))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(deadlines.run)
        await anyio.wait_all_tasks_blocked()
        for seconds in (60, 0.2, 0.1):
            deadlines.add(run_for(seconds))
        await eventually(lambda: len(ended) == 2)
        tasks.cancel_scope.cancel()

    assert ended == [0.1, 0.2]


# In a process


@pytest.mark.anyio
@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "progress"),
    [("track", Progress(1.0, 1000, 1000, "items")), ("report in a fork", Progress(0.5)), ("keep", Progress(0.5))],
)
async def test_a_run_has_what_its_handler_in_a_process_said_last(
    store: Store, runs: list[Execution], tmp_path: Path, what: str, progress: Progress
) -> None:
    async with handlers.queue_of(store.driver, store.queue_name) as queue:
        await queue.push(Do(what, str(tmp_path)))
        await drain(queue)
        assert await queue.control.jobs(State.DEAD) == []

    assert runs
    assert [run.progress for run in runs] == [progress] * len(runs)


@pytest.mark.anyio
@pytest.mark.slow
async def test_what_is_said_to_the_context_of_a_job_that_is_over_in_its_process_is_dropped(
    store: Store, runs: list[Execution], tmp_path: Path
) -> None:
    async with handlers.queue_of(store.driver, store.queue_name, timeout=30) as queue:
        for what in ("keep", "report by another's", "", ""):
            await queue.push(Do(what, str(tmp_path)))
        await drain(queue, concurrency=1)

    assert {run.progress for run in runs} == {Progress(0.5)}
    ran = [line.split()[1] for line in (tmp_path / "ran").read_text().splitlines()]
    assert ran == [(tmp_path / "reported").read_text()] * 2  # in the same process: nothing was amiss with it


@pytest.mark.anyio
@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "options"), [("report", {"stalled_after": 1}), ("extend", {"timeout": 1}), ("extend", {})]
)
async def test_a_handler_in_a_process_goes_on_for_as_long_as_it_reports_or_extends(
    store: Store, tmp_path: Path, what: str, options: dict[str, Any]
) -> None:
    async with handlers.queue_of(store.driver, store.queue_name, **options) as queue:
        await queue.push(Do(what, str(tmp_path)))
        await drain(queue)
        assert await queue.control.jobs(State.DEAD) == []


@pytest.mark.anyio
@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "options", "says"),
    [
        ("report once", {"stalled_after": 1}, "JobStalled: the handler reported no progress for 1 s"),
        ("sleep", {"stalled_after": 1}, "JobStalled: the handler reported no progress for 1 s"),
        ("extend once", {"timeout": 1}, "to which it had extended its timeout of 1 s"),
    ],
)
async def test_a_handler_in_a_process_is_killed_when_it_reports_nothing_more_or_its_extension_is_over(
    store: Store, tmp_path: Path, what: str, options: dict[str, Any], says: str
) -> None:
    async with handlers.queue_of(store.driver, store.queue_name, **options) as queue:
        job_id = (await queue.push(Do(what, str(tmp_path)))).id
        await drain(queue)
        assert says in await error_of(queue)

    assert has_ended(int((tmp_path / f"pid-{job_id}").read_text()))


class Around(Middleware):
    """One that runs around handlers, in the event loop."""

    async def around(self, job: RunningJob, context: JobContext, call_next: Callable[[], Awaitable[Any]]) -> Any:
        return await call_next()


@pytest.mark.anyio
@pytest.mark.slow
async def test_with_middleware_around_it_a_handler_in_a_process_is_heard_as_well(
    store: Store, runs: list[Execution], tmp_path: Path
) -> None:
    async with handlers.queue_of(store.driver, store.queue_name) as queue:
        queue.add_middleware(Around())
        await queue.push(Do("track", str(tmp_path)))
        await drain(queue)

    assert {run.progress for run in runs} == {Progress(1.0, 1000, 1000, "items")}

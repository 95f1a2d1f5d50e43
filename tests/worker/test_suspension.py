"""Handlers that wait: the job needs no worker meanwhile, and goes on once the time or the signal has come."""

import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from each_setting import store as store
from results import drain
from step_handlers import Bench
from store import Store
from tenacity import stop_after_delay, wait_none

from redisjobs import JobInfo, Middleware, Reply, RetryPolicy, State
from redisjobs.events.middleware import CallNext, CallNextSync, RunningJob
from redisjobs.model.changes import Requeue
from redisjobs.model.context import JobContext
from redisjobs.worker.running import messages

pytestmark = pytest.mark.anyio

HOUR = 3600.0


async def found(bench: Bench, job_id: str) -> JobInfo:
    info = await bench.queue.get(job_id)
    assert info is not None
    return info


async def later(bench: Bench, seconds: float, **options: Any) -> None:
    """Let time pass, and run what is ready then."""
    bench.store.clock.ahead += seconds
    await drain(bench.queue, **options)


@pytest.mark.parametrize(
    "sleep", [["sleep", {"hours": 1}], ["sleep for", HOUR], ["sleep until", "in an hour"]], ids=lambda act: act[0]
)
async def test_a_job_that_sleeps_is_suspended_and_goes_on_when_its_time_has_come(
    bench: Bench, sleep: list[Any]
) -> None:
    at = datetime.fromtimestamp(bench.store.clock() / 1000 + HOUR, UTC)
    sleep = [sleep[0], at.isoformat() if sleep[1] == "in an hour" else sleep[1]]
    job_id = await bench.push(["step", "charge"], sleep, ["step", "mail"])
    await drain(bench.queue)
    assert (await found(bench, job_id)).state is State.SUSPENDED
    assert (bench.calls("charge"), bench.calls("mail")) == (1, 0)

    await later(bench, HOUR - 60)
    assert (await found(bench, job_id)).state is State.SUSPENDED

    await later(bench, 120)
    assert await bench.queue.get(job_id) is None
    assert bench.told == ["'charge 1'", "None", "'mail 1'"]
    assert bench.calls("charge") == 1


async def test_a_time_that_has_come_already_ends_the_run_too_but_only_that(bench: Bench) -> None:
    await bench.push(["call", "run"], ["sleep for", 0.0], ["sleep until", "2020-01-01T00:00:00+00:00"])
    await drain(bench.queue)

    assert bench.told == ["3", "None", "None"]


@pytest.mark.parametrize(
    "wrong",
    [
        ["sleep", {}],
        ["sleep", {"hour": 2}],
        ["sleep", {"hours": "1"}],
        ["sleep", {"days": 1e300}],
        ["sleep until", "2030-01-01T00:00:00"],
        ["sleep for", -1.0],
    ],
    ids=str,
)
async def test_a_wrong_time_is_refused_at_the_call(bench: Bench, wrong: list[Any]) -> None:
    await bench.push(["try", *wrong])
    await drain(bench.queue)

    assert bench.told[0].startswith("ValueError: ")


async def test_a_signal_ends_the_wait_and_its_value_is_returned(bench: Bench) -> None:
    job_id = await bench.push(["wait for", "approved"], ["step", "mail"])
    await drain(bench.queue)
    assert (await found(bench, job_id)).state is State.SUSPENDED

    assert await bench.queue.signal(job_id, "other") is Reply.KEPT
    await drain(bench.queue)
    assert (await found(bench, job_id)).state is State.SUSPENDED

    assert await bench.queue.signal(job_id, "approved", {"by": "ann"}) is Reply.OK
    await drain(bench.queue)
    assert bench.told == ["{'by': 'ann'}", "'mail 1'"]


async def test_a_signal_that_came_early_is_taken_and_the_first_of_a_name_wins(bench: Bench) -> None:
    job_id = await bench.push(
        ["call", "run"], ["wait for", "approved"], ["wait for", "approved", {"timeout": 60, "default": "no"}]
    )
    replies = [await bench.queue.signal(job_id, "approved", by) for by in ("ann", "bob")]
    await drain(bench.queue)
    assert replies == [Reply.KEPT, Reply.EXISTS]
    assert bench.calls("run") == 2

    await later(bench, 61)
    assert bench.told == ["3", "'ann'", "'no'"]


async def test_a_wait_that_is_over_raises_a_timeout_error_or_returns_the_default(bench: Bench) -> None:
    await bench.push(
        ["try", "wait for", "a", {"timeout": 60}],
        ["wait for", "b", {"timeout": 60, "default": None}],
        ["wait for", "c", {"timeout": 60, "default": [1]}],
    )
    for _ in range(3):
        await drain(bench.queue)
        bench.store.clock.ahead += 61
    await drain(bench.queue)

    assert bench.told == ["TimeoutError: signal 'a' did not come in time", "None", "[1]"]


async def test_a_wait_spends_no_attempt_and_no_delivery(bench: Bench) -> None:
    job_id = await bench.push(*[["sleep for", HOUR]] * 5, ["step", "mail"])
    for _ in range(5):
        await drain(bench.queue, max_deliveries=2)
        info = await found(bench, job_id)
        assert (info.state, info.attempt, info.deliveries) == (State.SUSPENDED, 1, 0)
        bench.store.clock.ahead += HOUR + 1
    await drain(bench.queue, max_deliveries=2)

    totals = (await bench.queue.control.counts()).totals
    assert bench.calls("mail") == 1
    assert (totals["completed"], totals["retried"], totals["suspended"], totals["woken"]) == (1, 0, 5, 5)


async def test_the_slot_and_the_share_of_the_limit_are_free_while_jobs_wait(
    store: Store, kind: str, tmp_path: Path
) -> None:
    bench = Bench(store, kind, tmp_path, max_concurrency=1)
    async with bench.queue:
        waiting = [await bench.push(["wait for", "go"], ["call", "end"]) for _ in range(3)]
        await bench.push(["call", "plain"])
        await drain(bench.queue, concurrency=1)

        assert bench.calls("plain") == 1
        assert [(await found(bench, job_id)).state for job_id in waiting] == [State.SUSPENDED] * 3
        for job_id in waiting:
            await bench.queue.signal(job_id, "go")
        await drain(bench.queue, concurrency=1)
        assert bench.calls("end") == 3


async def test_a_job_that_swallows_what_ends_it_is_suspended_all_the_same_and_that_is_said_once(
    bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "_warned", set())
    caplog.set_level(logging.WARNING, "redisjobs")
    jobs = [await bench.push(["swallow", "wait for", "go"], ["swallow", "step", "mail"]) for _ in range(2)]
    await drain(bench.queue)

    assert [(await found(bench, job_id)).state for job_id in jobs] == [State.SUSPENDED] * 2
    assert bench.calls("mail") == 0  # the run is over, and saves no more
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1
    assert "has caught the JobSuspended of its step 'go' and returned" in said[0]
    for job_id in jobs:
        await bench.queue.signal(job_id, "go")
    await drain(bench.queue)
    assert bench.calls("mail") == 2


class Watch(Middleware):
    """Notes what passes through it."""

    def __init__(self) -> None:
        self.seen = list[str]()


class Around(Watch):
    async def around(self, job: RunningJob, context: JobContext, call_next: CallNext) -> Any:
        try:
            return await call_next()
        except BaseException as error:
            self.seen.append(type(error).__name__)
            raise
        finally:
            self.seen.append("end")


class AroundSync(Watch):
    def around_sync(self, job: RunningJob, context: JobContext, call_next: CallNextSync) -> Any:
        try:
            return call_next()
        except BaseException as error:
            self.seen.append(type(error).__name__)
            raise
        finally:
            self.seen.append("end")


@pytest.mark.parametrize("make", [Around, AroundSync])
async def test_middleware_sees_a_suspension_pass(bench: Bench, kind: str, make: type[Watch]) -> None:
    if make is AroundSync and kind != "thread":
        pytest.skip("it is around handlers in threads")
    watch = make()
    bench.queue.add_middleware(watch)
    await bench.push(["sleep for", HOUR], ["step", "mail"])
    await drain(bench.queue)
    assert watch.seen == ["JobSuspended", "end"]

    await later(bench, HOUR + 1)
    assert watch.seen == ["JobSuspended", "end", "end"]
    assert bench.calls("mail") == 1


@pytest.mark.slow
async def test_a_timeout_counts_the_time_of_one_run(store: Store, kind: str, tmp_path: Path) -> None:
    bench = Bench(store, kind, tmp_path, timeout=2)
    async with bench.queue:
        await bench.push(["work", 1.2], ["sleep for", HOUR], ["sleep for", HOUR])
        await drain(bench.queue)
        await later(bench, HOUR + 1)
        await later(bench, HOUR + 1)

        assert bench.told == ["None"] * 3
        assert (await bench.queue.control.counts()).totals["retried"] == 0


async def test_the_time_of_a_retry_policy_leaves_out_the_time_suspended(
    store: Store, kind: str, tmp_path: Path
) -> None:
    retry = RetryPolicy(wait=wait_none(), stop=stop_after_delay(timedelta(minutes=10)))
    bench = Bench(store, kind, tmp_path, retry=retry)
    async with bench.queue:
        job_id = await bench.push(
            ["sleep for", HOUR], ["sleep for", HOUR], ["fail", 1], ["sleep for", HOUR], ["fail", 4]
        )
        await drain(bench.queue)
        for _ in range(3):
            await later(bench, HOUR + 1)

        assert await bench.queue.get(job_id) is None
        assert bench.calls("fail") == 6
        assert (await bench.queue.control.counts()).totals["retried"] == 2


async def test_a_job_waits_on_after_a_failure_and_is_tried_from_there(bench: Bench) -> None:
    job_id = await bench.push(["sleep for", HOUR], ["step", "charge"], ["fail", 4], ["step", "mail"])
    await drain(bench.queue)
    await later(bench, HOUR + 1)
    assert (await found(bench, job_id)).state is State.DEAD

    assert await bench.queue.control.requeue(job_id)
    await drain(bench.queue)
    assert (bench.calls("charge"), bench.calls("fail"), bench.calls("mail")) == (1, 5, 1)


@pytest.mark.parametrize(("from_step", "calls"), [(None, (1, 1)), ("b", (1, 2)), ("a", (2, 2)), ("", (2, 2))])
async def test_a_dead_letter_that_is_requeued_from_a_step_calls_that_and_all_after_it(
    bench: Bench, from_step: str | None, calls: tuple[int, int]
) -> None:
    job_id = await bench.push(["step", "a"], ["step", "b"], ["checkpoint", 1], ["fail", 4], ["saved"])
    await drain(bench.queue)

    assert await bench.queue.driver.change(Requeue(job_id, from_step=from_step)) is Reply.OK
    await drain(bench.queue)

    assert (bench.calls("a"), bench.calls("b")) == calls
    assert bench.told[-1] == "1"

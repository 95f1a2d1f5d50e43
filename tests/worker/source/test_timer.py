"""The one timer of a source: it wakes at the time that was set last, and is not disturbed for a later one."""

import math
import time
from collections.abc import AsyncIterator

import anyio
import pytest

from redisjobs.worker.source.timer import Timer

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])]


@pytest.fixture
async def timer() -> AsyncIterator[Timer]:
    timer = Timer()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(timer.run)
        await anyio.wait_all_tasks_blocked()
        yield timer
        tasks.cancel_scope.cancel()


async def rest(timer: Timer, at: float) -> None:
    """Rest until a time, as a source does that finds nothing to do."""
    timer.begin()
    timer.wake_at(at)
    await timer.wait()


async def is_woken(timer: Timer) -> bool:
    with anyio.move_on_after(0):
        await timer.wait()
        return True
    return False


async def test_a_source_rests_until_the_time_that_it_set_and_not_longer(timer: Timer) -> None:
    at = time.monotonic() + 0.02
    with anyio.fail_after(5):
        await rest(timer, at)
    assert time.monotonic() >= at


async def test_an_earlier_time_counts_instead_of_a_later_one_and_one_that_has_passed_at_once(timer: Timer) -> None:
    timer.wake_at(time.monotonic() + 3600)
    await anyio.wait_all_tasks_blocked()
    with anyio.fail_after(5):
        await rest(timer, time.monotonic() + 0.01)
        await rest(timer, time.monotonic() - 1)


@pytest.mark.parametrize("later", [3600.0, math.inf])
async def test_a_later_time_takes_the_place_of_the_one_before_though_the_sleep_goes_on(
    timer: Timer, later: float
) -> None:
    timer.begin()
    timer.wake_at(time.monotonic() + 0.01)
    await anyio.wait_all_tasks_blocked()
    sleep = timer._earlier
    timer.wake_at(time.monotonic() + later)
    assert timer._earlier is sleep
    assert not sleep.is_set()

    with anyio.fail_after(5):
        while timer._earlier is sleep:  # until the sleep is over  # noqa: ASYNC110
            await anyio.sleep(0.001)

    assert not await is_woken(timer)


async def test_what_wakes_a_source_as_it_looks_ends_its_next_rest(timer: Timer) -> None:
    timer.begin()
    timer.wake()
    timer.wake()
    with anyio.fail_after(5):
        await timer.wait()
    timer.begin()
    assert not await is_woken(timer)

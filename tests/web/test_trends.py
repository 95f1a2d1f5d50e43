"""The plots of what workers report, on the overview and on the page of a job name."""

import re

import pytest
from store import RedisStore
from viewer import Mail, Viewer, dead, run_all

from redisjobs import JobQueue, Schedule
from redisjobs.web import Dashboard

pytestmark = pytest.mark.anyio


def recorded(store: RedisStore, minutes_ago: int, sums: str, sample: str = "") -> None:
    """Write what workers reported in a minute."""
    seconds = int(store.admin.time()[0])
    key = f"{store.prefix}minute:{seconds // 60 - minutes_ago}"
    fields = {"all": sums, "job Mail": sums} | ({"queue": sample} if sample else {})
    store.admin.hset(key, mapping=fields)
    store.admin.pexpire(key, 60_000)


async def test_the_overview_plots_throughput_waits_run_times_and_backlog(
    mails: JobQueue, viewer: Viewer, redis_store: RedisStore
) -> None:
    assert "Plots begin" not in await viewer.see()  # without a worker there will be none
    recorded(redis_store, 1, "completed=120 dead=6 run50=126 wait5=126", "ready=40 running=3")
    viewer = Viewer(Dashboard(mails), mails.name)

    shown = await viewer.see()

    assert "Throughput jobs a second done 2 retried 0 dead 0.1" in shown
    assert re.search(r"Wait until start log scale p50 [34] ms", shown)
    assert re.search(r"Run time log scale p50 3\d ms p95 \d\d ms p99 50 ms", shown)
    assert "Backlog jobs ready 40 running 3" in shown
    assert "Mail 120 6" in shown  # the row of the name


async def test_a_name_has_plots_of_its_own_and_is_paused_there(
    mails: JobQueue, viewer: Viewer, redis_store: RedisStore
) -> None:
    recorded(redis_store, 2, "completed=60 run50=60 wait5=60")

    assert "done 0" in await viewer.see("name?name=Mail")
    assert "No worker has reported jobs of this name" in await viewer.see("name?name=Other")
    assert (await viewer.get("name?name=")).status_code == 404
    assert "Resume this name" in await viewer.act("pause", name="Mail", back="name?name=Mail")
    assert await mails.control.is_paused("Mail")


@pytest.mark.parametrize("chosen", ["1h", "8h", "3d", "9999d", "<b>"])
async def test_the_time_of_the_plots_is_one_of_three(viewer: Viewer, redis_store: RedisStore, chosen: str) -> None:
    recorded(redis_store, 1, "completed=60")

    page = (await viewer.get(f"?range={chosen}")).text

    (current,) = re.findall(r'<a href="[^"]*range=(\w+)" aria-current="true"', page)
    assert current == (chosen if chosen in ("1h", "8h", "3d") else "1h")


async def test_only_minutes_that_may_have_changed_are_read_again(mails: JobQueue, redis_store: RedisStore) -> None:
    board = Dashboard(mails)._boards[mails.name]
    recorded(redis_store, 3, "completed=60")
    first = await board.statistics(3600)
    recorded(redis_store, 3, "completed=99")  # a closed minute: no worker changes it any more
    recorded(redis_store, 0, "completed=7")
    board.snapshots.forget()

    again = await board.statistics(3600)

    assert len(first) == len(again) == 60
    assert [each.completed for each in again if each.completed] == [60, 7]


async def test_a_schedule_shows_how_its_jobs_fared(
    mails: JobQueue, viewer: Viewer, redis_store: RedisStore
) -> None:
    await mails.schedules.put("nightly", Mail("joe"), Schedule.cron("0 4 * * *"))
    assert "<svg" not in (await viewer.get("schedules")).text.partition("<main")[2]
    key = f"{redis_store.prefix}ten:{int(redis_store.admin.time()[0]) // 600 - 3}"
    redis_store.admin.hset(key, mapping={"all": "completed=5 dead=2", "job Mail": "completed=5 dead=2"})
    redis_store.admin.pexpire(key, 60_000)
    viewer = Viewer(Dashboard(mails), mails.name)

    assert "2 dead" in await viewer.see("schedules")
    assert '<svg class="spark"' in (await viewer.get("schedules")).text


async def test_the_history_of_a_job_is_told(mails: JobQueue, viewer: Viewer) -> None:
    (job_id,) = await dead(mails)
    await mails.control.requeue(job_id)
    await run_all(mails)

    shown = await viewer.see(f"job?id={job_id}")

    assert "It became a dead letter: NowhereError: no such place: nowhere" in shown
    assert "It was retried by an operator" in shown
    assert shown.count("It became a dead letter") == 2


async def test_jobs_are_found_by_the_worker_that_ended_them(mails: JobQueue, viewer: Viewer) -> None:
    await dead(mails)
    (job,) = await mails.control.jobs("dead")

    assert "no such place" in await viewer.see(f"jobs?state=dead&worker={job.worker}")
    assert "No dead job matches." in await viewer.see("jobs?state=dead&worker=other")

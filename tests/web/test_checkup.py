"""The doctor's view: it checks when asked, keeps what it found, and repairs if the viewer may."""

import re
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest
from store import RedisStore, documented_user, eventually
from viewer import Mail, Viewer, words

from redisjobs import JobQueue, Schedule
from redisjobs.client.operation import Operation, ask, or_default
from redisjobs.control.doctor import Progress
from redisjobs.errors import DriverError
from redisjobs.model.health import Finding, Level
from redisjobs.model.queries import Count
from redisjobs.web import Dashboard, Verb
from redisjobs.web.board import checkup
from redisjobs.web.board.background import paced
from redisjobs.web.board.board import Board
from redisjobs.web.board.checkup import Checkup
from redisjobs.web.board.redaction import Redaction

pytestmark = pytest.mark.anyio


async def seen(viewer: Viewer, wanted: Callable[[str], bool]) -> str:
    """Wait until the view is as wanted, and return its HTML."""
    with anyio.fail_after(15):
        while True:
            page = (await viewer.get("doctor")).text
            if wanted(page):
                return page
            await anyio.sleep(0.02)


async def checked(viewer: Viewer, action: str = "check", **fields: str) -> str:
    """Start a run, and return the HTML of the view when it has ended."""
    answer = await viewer.post(action, fields)
    assert (answer.status_code, answer.headers["location"]) == (303, f"{viewer.base}/doctor")
    return await seen(viewer, lambda page: "act/stop-check" not in page)


@pytest.fixture
async def lost(mails: JobQueue, redis_store: RedisStore) -> AsyncIterator[str]:
    """The id of a job that is not located. Another job is gone, and its unique key is left."""
    job, gone = await mails.push(Mail("joe")), await mails.push(Mail("ann"), unique="of <ann>")
    redis_store.admin.hdel(f"{redis_store.prefix}jobs", job.id, gone.id)
    ((entry, _),) = redis_store.admin.xrevrange(redis_store.stream(), count=1)
    redis_store.admin.xdel(redis_store.stream(), entry)
    yield job.id
    redis_store.admin.delete(*redis_store.admin.keys(f"{redis_store.prefix}*"))


async def test_before_a_run_it_says_what_is_checked_and_checks_what_costs_little(
    mails: JobQueue, viewer: Viewer
) -> None:
    await mails.push(Mail("joe"))

    shown = await viewer.see("doctor")

    assert "A check looks whether each job is in one place" in shown
    assert "It changes nothing and costs the server little" in shown
    assert "error workers No worker is alive, and 1 job waits." in shown
    assert "A round trip takes" in shown
    assert "has a handler" not in shown  # only a look at each job shows which handlers are needed


async def test_a_run_shows_findings_by_level_with_links_to_jobs_and_advice(
    mails: JobQueue, viewer: Viewer, lost: str
) -> None:

    page = await checked(viewer)

    assert "checked just now" in words(page)
    said = {each.check: each for each in await mails.control.doctor()}
    assert said["unlocated"].level is Level.ERROR
    assert f"{said['unlocated'].sentence.partition(' (')[0]}. {lost}" in words(page)
    assert f'href="{viewer.base}/job?id={lost}"' in page
    assert said["unique"].sentence in words(page)
    assert f"<code>redisjobs doctor --repair --queue {mails.name}</code>" in page
    levels = re.findall(r'class="badge \w+"><span class="dot"></span>(\w+)<', page)
    assert levels[:2] == ["error", "error"]


async def test_a_run_that_ends_while_its_view_is_made_is_shown_as_going_on_or_with_its_result(
    viewer: Viewer, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick_checks = Board.quick_checks

    async def after_the_run(board: Board) -> Any:
        found = await quick_checks(board)
        await eventually(lambda: not board.checkup.is_running, within=15)
        return found

    monkeypatch.setattr(Board, "quick_checks", after_the_run)

    assert "checked just now" in words(await checked(viewer))


async def test_a_repair_asks_first_and_says_what_it_did(mails: JobQueue, viewer: Viewer, lost: str) -> None:
    assert "Repair what loses nothing" in words(await checked(viewer))

    asked = await viewer.post("repair")
    assert "Check the queue again, and repair what loses nothing?" in words(asked.text)
    assert await mails.get(lost) is None
    page = await checked(viewer, "repair", sure="1")

    assert "repaired just now" in words(page)
    assert "Repaired: located again." in words(page)
    assert "Repair what loses nothing" not in words(page)
    assert await mails.get(lost) is not None
    assert "entries, locators and notes agree" in words(await checked(viewer))


async def test_who_may_not_repair_sees_a_repair_that_is_off_and_is_refused(mails: JobQueue, lost: str) -> None:
    viewer = Viewer(Dashboard(mails, access=lambda _: {Verb.RETRY}), mails.name)

    page = await checked(viewer)

    assert '<button disabled title="You may not repair here">' in page
    assert "act/repair" not in page
    assert (await viewer.post("repair", {"sure": "1"})).status_code == 403
    assert await mails.get(lost) is None


async def test_a_user_of_redis_who_only_reads_checks_what_the_acl_allows(redis_store: RedisStore) -> None:
    with documented_user(redis_store, "observer") as url:
        async with JobQueue(url, redis_store.queue_name) as queue:
            viewer = Viewer(Dashboard(queue, access=lambda _: "all"), queue.name)

            page = await checked(viewer)

    assert "unknown data Not checked" in words(page)
    assert "act/repair" not in page


@pytest.mark.usefixtures("lost")
async def test_what_is_hidden_stands_in_no_finding(mails: JobQueue) -> None:
    viewer = Viewer(Dashboard(mails, access=lambda _: "all", redact=["to"]), mails.name)

    page = await checked(viewer)

    assert "so that pushes with these keys add nothing: 1 (•••)." in words(page)
    assert "ann" not in words(page)


async def test_names_of_schedules_stay_texts(mails: JobQueue, viewer: Viewer) -> None:
    await mails.schedules.put("<b>", Mail("joe"), Schedule.every(60))
    await mails.schedules.pause("<b>")

    page = await checked(viewer)

    assert "Paused schedules: 1 (<b>)." in words(page)
    assert "<b>)" not in page


# Runs


def endless(queue: str, repair: bool, progress: Progress) -> Operation[list[Finding]]:
    progress(1, 10)
    while True:
        yield from ask(Count())


async def test_one_run_at_a_time_which_stops_when_asked_and_keeps_the_result_before(
    mails: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Checkup(mails)
    assert run.start(repair=False)
    await eventually(lambda: not run.is_running)
    before = run.last
    assert before is not None
    monkeypatch.setattr(checkup, "doctor", endless)

    assert run.start(repair=False)
    assert not run.start(repair=True)
    await eventually(lambda: (run.done, run.total) == (1, 10))
    run.stop()
    await eventually(lambda: not run.is_running)

    assert (run.last, run.failed) == (before, "It was stopped.")


async def test_a_view_shows_how_far_a_run_is_and_offers_to_stop_it(
    mails: JobQueue, viewer: Viewer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkup, "doctor", endless)
    await viewer.post("check")

    await seen(viewer, lambda page: "Checking: 1 of about 10" in words(page))
    assert (await viewer.post("repair", {"sure": "1"})).status_code == 422
    stopped = await checked(viewer, "stop-check")

    assert "The last run did not come to its end: It was stopped." in words(stopped)


async def test_who_may_not_repair_can_stop_a_check_and_no_repair(
    mails: JobQueue, viewer: Viewer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkup, "doctor", endless)
    dashboard = Dashboard(mails, access=lambda request: "all" if "boss" in request.headers else "read_only")
    reader, boss = Viewer(dashboard, mails.name), Viewer(dashboard, mails.name)
    boss.client.headers["boss"] = "1"

    await reader.post("check")
    assert "act/stop-check" in (await reader.get("doctor")).text
    await checked(reader, "stop-check")
    await boss.post("repair", {"sure": "1"})

    await seen(reader, lambda page: "Repairing: 1 of about 10" in words(page))
    assert "act/stop-check" not in (await reader.get("doctor")).text
    assert (await reader.post("stop-check")).status_code == 422
    assert "Repairing" in await reader.see("doctor")
    await checked(boss, "stop-check")


async def test_a_run_on_a_server_that_is_away_says_so(mails: JobQueue) -> None:
    gone = Board(JobQueue("redis://127.0.0.1:1/0", "gone", deadline=0.01), "gone", Redaction(None))

    gone.checkup.start(repair=False)
    await eventually(lambda: not gone.checkup.is_running, within=15)

    assert "gave up" in gone.checkup.failed
    assert gone.checkup.last is None


def test_an_operation_in_the_background_gets_its_errors() -> None:
    steps = paced(or_default(ask(Count()), "refused"), threading.Event())
    next(steps)

    with pytest.raises(StopIteration) as end:
        steps.throw(DriverError("no permissions"))

    assert end.value.value == "refused"

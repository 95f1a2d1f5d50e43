"""Each view of the page, on a real server."""

import re

import pytest
from store import RedisStore
from viewer import Mail, Viewer, dead, run_all, words

from redisjobs import JobQueue, Schedule
from redisjobs.web import Dashboard
from redisjobs.web.dashboard import VIEWS

pytestmark = pytest.mark.anyio


async def test_a_new_queue_teaches_what_to_type_next(viewer: Viewer) -> None:
    assert "This queue is new. Start a worker, then push a job: redisjobs worker" in await viewer.see()
    assert "To push one: redisjobs push" in await viewer.see("jobs")
    assert "queue.schedule(" in await viewer.see("schedules")
    assert "redisjobs worker" in await viewer.see("workers")
    assert "max_concurrency=10" in await viewer.see("limits")
    assert "No job has failed for good" in await viewer.see("failures")


async def test_the_overview_says_what_is_wrong_before_any_table(mails: JobQueue, viewer: Viewer) -> None:
    await mails.push(Mail("joe"))
    assert "No worker is alive, and 1 job waits." in await viewer.see()
    await mails.push(Mail("ann"))
    viewer = Viewer(Dashboard(mails), mails.name)
    assert "No worker is alive, and 2 jobs wait." in await viewer.see()

    await mails.control.pause()
    viewer = Viewer(Dashboard(mails), mails.name)
    assert "The queue is paused since" in await viewer.see()


async def test_the_numbers_are_those_of_the_queue(mails: JobQueue, viewer: Viewer) -> None:
    await dead(mails, 2)
    await mails.push(Mail("joe"))
    await run_all(mails)
    await mails.push(Mail("later"), delay=60)

    page = (await viewer.get()).text

    numbers = dict(re.findall(r'<span class="dot"></span>(\w+)</span>\s*<b>([\d,]+)</b>', page))
    assert numbers == {"Ready": "0", "Running": "0", "Delayed": "1", "Dead": "2", "Done": "1"}


async def test_failures_are_grouped_by_cause(mails: JobQueue, viewer: Viewer) -> None:
    await dead(mails, 3)

    assert "3 dead letters, 1 cause" in await viewer.see("failures")
    assert "viewer.NowhereError" in await viewer.see("failures")
    link = re.search(r'href="([^"]+fingerprint=[^"]+)"', (await viewer.get("failures")).text)
    assert link is not None
    listed = words((await viewer.client.get(link[1].replace("&amp;", "&"))).text)
    assert listed.count("no such place: nowhere") >= 3


async def test_jobs_come_in_pages_that_a_cursor_connects(mails: JobQueue, viewer: Viewer) -> None:
    handles = await mails.push_many([Mail("joe", number) for number in range(60)])
    seen, address = list[str](), f"{viewer.base}/jobs?state=ready"

    while address:
        page = (await viewer.client.get(address)).text
        seen += re.findall(r'name="id" value="([^"]+)"', page)
        following = re.search(r'rel="next" href="([^"]+)"', page)
        address = following[1].replace("&amp;", "&") if following else ""

    assert seen == [handle.id for handle in handles]


async def test_jobs_are_found_by_name_text_and_age(mails: JobQueue, viewer: Viewer) -> None:
    await mails.push_many([Mail("joe"), Mail("ann")])

    assert "ann" in await viewer.see("jobs?text=ann")
    assert '"to":"joe"' not in await viewer.see("jobs?text=ann")
    assert "No ready job matches." in await viewer.see("jobs?name=Other")
    assert "No ready job matches." in await viewer.see("jobs?age=3600")


async def test_a_job_is_found_by_its_id_in_the_search_field_in_whatever_state(
    mails: JobQueue, viewer: Viewer
) -> None:
    handle = await mails.push(Mail("joe"), delay=60)

    assert f"A job has this id: {handle.id} Mail delayed" in await viewer.see(f"jobs?state=dead&text={handle.id}")
    assert "A job has this id" not in await viewer.see("jobs?text=unknown")


async def test_a_dead_job_shows_its_error_its_own_frames_first_and_exact_numbers(
    mails: JobQueue, viewer: Viewer
) -> None:
    handle = await mails.push(Mail("nowhere", 90071992547409931123456789))
    await run_all(mails)

    shown = await viewer.see(f"job?id={handle.id}")

    assert "It is a dead letter, reason 'failed' (NowhereError: no such place: nowhere), after 1 attempt." in shown
    assert "NowhereError: no such place: nowhere" in shown
    assert "tests/viewer.py:" in shown
    assert '"number": 90071992547409931123456789' in shown


async def test_a_done_job_shows_its_result(mails: JobQueue, viewer: Viewer) -> None:
    handle = await mails.push(Mail("joe", 2**70))
    await run_all(mails)

    shown = await viewer.see(f"job?id={handle.id}")

    assert "It is done at " in shown
    assert f'"sent": {2**70}' in shown


async def test_a_page_that_is_open_learns_that_its_job_is_gone(mails: JobQueue, viewer: Viewer) -> None:
    again = await viewer.get("job?id=gone", {"hx-request": "true"})

    assert (again.status_code, (await viewer.get("job?id=gone")).status_code) == (200, 404)
    assert "It is not on queue" in words(again.text)


async def test_the_result_of_a_job_that_is_not_kept_is_found_by_its_id(redis_store: RedisStore) -> None:
    async with JobQueue(redis_store.driver, redis_store.queue_name) as keeping_nothing:
        Mail.registered_on(keeping_nothing)
        handle = await keeping_nothing.push(Mail("joe", 5))
        await run_all(keeping_nothing)
        viewer = Viewer(Dashboard(keeping_nothing), keeping_nothing.name)

        shown = await viewer.see(f"job?id={handle.id}")
        assert "It is done, and its result is kept." in shown
        assert '"sent": 5' in shown


async def test_the_error_of_a_deleted_dead_letter_is_found_by_its_id(mails: JobQueue, viewer: Viewer) -> None:
    (job_id,) = await dead(mails)
    await mails.control.delete(job_id)

    shown = await viewer.see(f"job?id={job_id}")

    assert "It failed, and its dead letter was deleted." in shown
    assert "NowhereError: no such place: nowhere" in shown


async def test_the_page_of_an_unknown_id_says_what_is_known_of_it(mails: JobQueue, viewer: Viewer) -> None:
    answer = await viewer.get("job?id=unknown")

    assert answer.status_code == 404
    assert (await mails.control.why("unknown")).sentence in words(answer.text)
    assert "compare the queue's name and its server" in words(answer.text).lower()
    assert (await viewer.get("job")).status_code == 404


async def test_a_job_says_why_it_does_not_run_with_the_facts_and_what_to_do(
    mails: JobQueue, viewer: Viewer
) -> None:
    first, second = await mails.push_many([Mail("joe"), Mail("ann")])
    await mails.control.pause("Mail")

    page = (await viewer.get(f"job?id={second.id}")).text
    known = await mails.control.why(second.id)

    assert f"{known.sentence} `redisjobs resume --name Mail --queue {mails.name}`".replace("`", "") in words(page)
    assert f"<code>redisjobs resume --name Mail --queue {mails.name}</code>" in page
    assert 'class="card why delayed"' in page
    assert "Jobs ahead 1" in words(page)

    await mails.control.resume("Mail")
    page = (await Viewer(Dashboard(mails), mails.name).get(f"job?id={first.id}")).text
    assert "No worker of queue" in words(page)
    assert 'class="card why dead"' in page


async def test_schedules_are_in_words_with_their_next_slots(mails: JobQueue, viewer: Viewer) -> None:
    await mails.schedules.put("nightly", Mail("joe"), Schedule.cron("0 4 * * mon-fri", tz="Europe/Berlin"))

    shown = await viewer.see("schedules")

    assert "nightly pushes Mail" in shown
    assert "Monday to Friday at 04:00, Europe/Berlin" in shown


async def test_a_limit_shows_who_runs_and_who_waits(mails: JobQueue, viewer: Viewer) -> None:
    await mails.control.set_limit("Mail", max_concurrency=3, rate="50/s")

    assert "3 at once, 50/s, 6 together 0 running 0 waiting" in await viewer.see("limits")


async def test_an_unchanged_view_is_not_sent_again(mails: JobQueue, viewer: Viewer) -> None:
    first = await viewer.get("limits", {"hx-request": "true"})

    again = await viewer.get("limits", {"hx-request": "true", "if-none-match": first.headers["etag"]})

    assert (again.status_code, again.content) == (304, b"")


async def test_a_fragment_is_the_inside_of_the_page(viewer: Viewer) -> None:
    fragment = (await viewer.get("jobs", {"hx-request": "true"})).text

    assert "<html" not in fragment
    assert fragment.strip() in (await viewer.get("jobs")).text


async def test_several_queues_have_a_page_of_their_own(mails: JobQueue, redis_store: RedisStore) -> None:
    same_name = JobQueue("memory://", mails.name)
    Mail.registered_on(same_name)
    viewer = Viewer(Dashboard([mails, same_name]), mails.name)
    await same_name.push(Mail("joe"))

    home = words((await viewer.client.get("/")).text)

    assert home.count(mails.name) == 2
    assert "1 ready" in words((await viewer.client.get(f"/{mails.name}-2/jobs")).text)


async def test_a_server_that_went_away_is_said_and_the_page_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redisjobs.web.board.board._DEADLINE", 0.05)
    gone = JobQueue("redis://127.0.0.1:1/0", "gone")
    viewer = Viewer(Dashboard(gone), "gone")

    page = await viewer.get()
    fragment = await viewer.get("", {"hx-request": "true"})

    assert (page.status_code, fragment.status_code) == (503, 503)
    assert "Redis does not answer." in words(page.text)
    assert '<meta http-equiv="refresh" content="5">' in page.text


@pytest.mark.parametrize("view", sorted(VIEWS))
async def test_keys_of_a_wrong_type_and_half_an_entry_break_no_view(
    mails: JobQueue, viewer: Viewer, redis_store: RedisStore, view: str
) -> None:
    (job_id,) = await dead(mails)
    admin, prefix = redis_store.admin, redis_store.prefix
    asked = f"{view}?id={job_id}&state=dead"
    half = admin.xadd(f"{prefix}dead", {"id": "half"})
    admin.hset(f"{prefix}schedule:torn", "rule", b"\xff")
    admin.zadd(f"{prefix}schedules", {"torn": 1})

    assert (await viewer.get(asked)).status_code in (200, 404)

    admin.delete(f"{prefix}schedules", f"{prefix}schedule:torn")
    admin.xdel(f"{prefix}dead", half)
    admin.rename(f"{prefix}dead", f"{prefix}aside")
    admin.set(f"{prefix}dead", "not a stream")
    wrong = await Viewer(Dashboard(mails), mails.name).get(asked)
    admin.rename(f"{prefix}aside", f"{prefix}dead")
    assert wrong.status_code in (200, 404, 503)
    if wrong.status_code == 503:
        assert "Redis answered with an error." in words(wrong.text)


async def test_what_can_not_be_read_is_left_out_and_named_and_the_rest_is_shown(
    mails: JobQueue, redis_store: RedisStore
) -> None:
    await dead(mails)
    admin, workers = redis_store.admin, f"{redis_store.prefix}workers"
    admin.delete(workers)
    admin.set(workers, "not a sorted set")

    shown = await Viewer(Dashboard(mails), mails.name).see()
    admin.delete(workers)

    assert "A part can't be read." in shown
    assert "1 cause" in shown

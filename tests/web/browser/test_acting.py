"""Each action end to end in a browser, with scripts and without them."""

import pytest
from chromium import Page, expect
from storefront import Shop, until

from redisjobs import Schedule, State

pytestmark = pytest.mark.slow


@pytest.fixture(params=[True, False], ids=["scripts", "plain"])
def scripts(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def shown(page: Page, text: str, scripts: bool) -> None:
    """Wait until the page shows a text. Without scripts, a viewer reads it again."""
    if scripts:
        expect(page.locator("body")).to_contain_text(text)
    else:
        until(lambda: text in page.inner_text("body") or page.reload() is None)


def test_a_dead_job_is_found_by_its_cause_and_retried(shop: Shop, page: Page) -> None:
    (job_id,) = shop.die("nowhere")

    page.goto("")
    page.get_by_role("link", name="Failures", exact=True).click()
    page.get_by_role("link", name="SMTPServerDisconnected").click()
    page.get_by_role("link", name="SendEmail", exact=True).click()
    page.get_by_role("button", name="Retry", exact=True).click()

    expect(page.get_by_text("Retried 1 job.")).to_be_visible()
    assert shop.state(job_id) is State.READY


def test_selected_dead_jobs_are_retried_and_the_others_stay(shop: Shop, page: Page) -> None:
    ids = shop.die("nowhere", "elsewhere", "anywhere")

    page.goto("jobs?state=dead")
    for job_id in ids[:2]:
        page.get_by_label(f"Select job {job_id}").check()
    page.get_by_role("button", name="Retry selected").click()

    expect(page.get_by_text("Retried 2 jobs.")).to_be_visible()
    assert [shop.state(job_id) for job_id in ids] == [State.READY, State.READY, State.DEAD]


def test_selected_dead_jobs_are_deleted_after_a_question(shop: Shop, page: Page) -> None:
    ids = shop.die("nowhere", "elsewhere")

    page.goto("jobs?state=dead")
    page.get_by_label(f"Select job {ids[0]}").check()
    page.get_by_role("button", name="Delete selected").click()
    expect(page.get_by_text("Delete 1 job? This can't be undone.")).to_be_visible()
    assert shop.queue.control.counts().dead == 2
    page.get_by_role("button", name="Delete").click()

    expect(page.get_by_text("Deleted 1 job.")).to_be_visible()
    assert [shop.state(job_id) for job_id in ids] == [None, State.DEAD]


def test_all_of_a_cause_are_counted_and_retried_with_a_pace(shop: Shop, page: Page, scripts: bool) -> None:
    shop.die(*["nowhere"] * 30)

    page.goto("failures")
    page.get_by_role("button", name="Retry…").click()
    shown(page, "Retry all 30 that match, counted", scripts)
    assert shop.queue.control.counts().dead == 30
    page.get_by_label("Pace").fill("1/m")
    page.get_by_role("button", name="Retry 30 jobs").click()

    shown(page, "30 of 30 retried, at 1/m", scripts)
    counts = shop.queue.control.counts()
    assert (counts.dead, counts.delayed) == (0, 29)


def test_an_act_on_all_that_match_shows_how_far_it_is_and_is_stopped(
    shop: Shop, page: Page, scripts: bool
) -> None:
    shop.die(*["nowhere"] * 3)
    page.goto("jobs?state=dead")
    page.get_by_label("What to do with all that match").select_option("Delete")
    page.get_by_role("button", name="Count them…").click()
    shown(page, "Delete all 3 that match, counted", scripts)

    with shop.no_writes():  # the act waits for its first step
        page.get_by_role("button", name="Delete 3 jobs").click()
        shown(page, "0 of 3 deleted so far", scripts)
        page.get_by_role("button", name="Stop").click()

    shown(page, "It was stopped. What is done stays done.", scripts)
    assert shop.queue.control.counts().dead == 3


def test_all_ready_jobs_with_a_text_are_cancelled(shop: Shop, page: Page, scripts: bool) -> None:
    ids = shop.push("ann@example.com", "joe@example.com", "ann@example.com")

    page.goto("jobs")
    page.get_by_label("Text in parameters or error").fill("ann@")
    page.get_by_role("button", name="Find").click()
    expect(page.locator("tbody tr")).to_have_count(2)
    page.get_by_role("button", name="Count them…").click()
    shown(page, "Cancel all 2 that match", scripts)
    page.get_by_role("button", name="Cancel 2 jobs").click()

    shown(page, "2 of 2 cancelled", scripts)
    assert [shop.state(job_id) for job_id in ids] == [None, State.READY, None]


def test_a_running_job_shows_its_progress_and_is_cancelled(shop: Shop, page: Page, scripts: bool) -> None:
    job_id = shop.begin_import()

    page.goto("jobs?state=running")
    page.get_by_role("link", name="ImportCatalogue").click()
    shown(page, "page 3 of 10", scripts)
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("Cancel 1 job? This can't be undone.")).to_be_visible()
    page.get_by_role("button", name="Cancel the jobs").click()

    expect(page.get_by_text("Cancelled 1 job.")).to_be_visible()
    shown(page, "It was cancelled at", scripts)
    assert shop.state(job_id) is State.CANCELLED


def test_a_waiting_job_is_held_and_let_go(shop: Shop, page: Page) -> None:
    (job_id,) = shop.push("ann@example.com")

    page.goto(f"job?id={job_id}")
    page.get_by_role("button", name="Hold").click()
    expect(page.locator(".badge", has_text="held")).to_be_visible()
    assert shop.queue.control.pauses().held == 1
    page.get_by_role("button", name="Unhold").click()

    expect(page.get_by_text("1 job may start again.")).to_be_visible()
    assert shop.queue.control.pauses().held == 0


def test_the_queue_is_paused_and_resumed(shop: Shop, page: Page) -> None:
    page.goto("")
    page.get_by_role("button", name="Pause the queue").click()
    expect(page.get_by_text("The queue is paused since")).to_be_visible()
    assert shop.queue.control.is_paused()
    page.get_by_role("button", name="Resume the queue").click()

    expect(page.get_by_text("Resumed.")).to_be_visible()
    assert not shop.queue.control.is_paused()


def test_a_job_name_is_paused_and_resumed(shop: Shop, page: Page) -> None:
    page.goto("name?name=SendEmail")
    page.get_by_role("button", name="Pause this name").click()
    expect(page.get_by_text("Paused.")).to_be_visible()
    assert (shop.queue.control.is_paused(), shop.queue.control.is_paused("SendEmail")) == (False, True)
    page.get_by_role("button", name="Resume this name").click()

    expect(page.get_by_text("Resumed.")).to_be_visible()
    assert not shop.queue.control.is_paused("SendEmail")


def test_parameters_are_edited_and_an_integer_of_20_digits_stays_exact(shop: Shop, page: Page) -> None:
    (job_id,) = shop.die("nowhere")

    page.goto(f"job?id={job_id}")
    page.get_by_role("link", name="Edit and retry").click()
    field = page.get_by_label("Parameters, as JSON")
    expect(field).to_have_value(f'{{\n  "to": "nowhere",\n  "order": {2**70}\n}}')
    field.fill('{"to": 5, "order": 1}')
    page.get_by_role("button", name="Retry with these").click()
    expect(page.get_by_role("alert")).to_contain_text("Not retried:")
    expect(field).to_have_value('{"to": 5, "order": 1}')
    assert shop.state(job_id) is State.DEAD
    field.fill('{"to": "ann@example.com", "order": 12345678901234567890}')
    page.get_by_role("button", name="Retry with these").click()

    expect(page.get_by_text("Retried 1 job.")).to_be_visible()
    found = shop.queue.get(job_id)
    assert found is not None
    assert found.parameters == '{"to":"ann@example.com","order":12345678901234567890}'


def test_a_job_is_pushed_by_a_form_that_its_type_checks(shop: Shop, page: Page) -> None:
    page.goto("")
    page.get_by_role("link", name="Push a job").click()
    page.get_by_role("link", name="SendEmail").click()
    field = page.get_by_label("Parameters, as JSON")
    field.fill('{"to": "ann@example.com", "oder": 1}')
    page.get_by_role("button", name="Push").click()
    expect(page.get_by_role("alert")).to_contain_text("SendEmail has no key 'oder'")
    field.fill('{"to": "ann@example.com", "order": 12345678901234567890}')
    page.get_by_label("Priority").select_option("high")
    page.get_by_label("Delay in seconds").fill("60")
    page.get_by_role("button", name="Push").click()

    expect(page.get_by_text("Pushed a job.")).to_be_visible()
    (job,) = shop.queue.control.jobs(State.DELAYED)
    assert (job.priority, job.parameters) == ("high", '{"to":"ann@example.com","order":12345678901234567890}')


def test_a_schedule_is_paused_resumed_and_run_now(shop: Shop, page: Page) -> None:
    shop.schedule("nightly", Schedule.cron("0 4 * * mon-fri", tz="Europe/Berlin"))

    page.goto("schedules")
    expect(page.get_by_text("Monday to Friday at 04:00, Europe/Berlin").locator("visible=true")).to_be_visible()
    page.get_by_role("button", name="Pause", exact=True).click()
    expect(page.get_by_text("Paused the schedule.")).to_be_visible()
    assert [each.paused for each in shop.queue.schedules.list()] == [True]
    page.get_by_role("button", name="Resume", exact=True).click()
    expect(page.get_by_text("Resumed the schedule.")).to_be_visible()
    page.get_by_role("button", name="Run now").click()

    expect(page.get_by_text("Pushed a job.")).to_be_visible()
    (schedule,) = shop.queue.schedules.list()
    assert (schedule.paused, len(shop.queue.control.jobs(State.READY))) == (False, 1)


@pytest.mark.parametrize("scripts", [True])
def test_a_double_click_acts_once_and_a_reload_does_not_say_it_again(
    shop: Shop, page: Page, scripts: bool
) -> None:
    shop.schedule("nightly", Schedule.cron("0 4 * * *"))

    page.goto("schedules")
    page.get_by_role("button", name="Run now").dblclick()
    expect(page.get_by_text("Pushed a job.")).to_be_visible()
    page.reload()

    expect(page.get_by_text("Pushed a job.")).to_have_count(0)
    expect(page.get_by_text("ready", exact=True)).to_be_visible()
    assert len(shop.queue.control.jobs(State.READY)) == 1


def test_a_limit_is_set_and_removed(shop: Shop, page: Page) -> None:
    page.goto("limits")
    page.get_by_label("Job name").fill("SendEmail")
    page.get_by_label("Jobs at once").fill("3")
    page.get_by_label("Rate").fill("50/s")
    page.get_by_role("button", name="Set the limit").click()
    expect(page.get_by_text("Set the limit.")).to_be_visible()
    (limit,) = shop.queue.control.limits()
    assert (limit.name, limit.max_concurrency, limit.rate) == ("SendEmail", 3, "50/s")
    page.get_by_role("button", name="Remove").click()
    page.get_by_role("button", name="Remove it").click()

    expect(page.get_by_text("Removed the limit.")).to_be_visible()
    assert shop.queue.control.limits() == []


def test_a_worker_is_quiet_goes_on_and_stops(shop: Shop, page: Page, scripts: bool) -> None:
    shop.work()
    until(lambda: shop.queue.control.workers())
    assert shop.worker is not None

    page.goto("workers")
    page.locator("td.acts").get_by_role("button", name="Quiet").click()
    expect(page.get_by_text("Asked. A quiet worker claims no more jobs")).to_be_visible()
    until(lambda: shop.queue.control.workers()[0].quiet)
    if not scripts:
        page.reload()
    page.locator("td.acts").get_by_role("button", name="Resume").click()
    expect(page.get_by_text("Asked. The worker claims jobs again.")).to_be_visible()
    page.locator("td.acts").get_by_role("button", name="Stop").click()
    expect(page.get_by_role("heading", name="Stop worker mail-1")).to_be_visible()
    page.get_by_role("button", name="Stop").click()

    expect(page.get_by_text("Asked. The worker ends when its running jobs have ended")).to_be_visible()
    assert shop.worker.wait(timeout=20) == 0


def test_the_doctor_finds_a_lost_job_and_repairs_it(shop: Shop, page: Page, scripts: bool) -> None:
    (job_id,) = shop.push("ann@example.com")
    shop.store.admin.hdel(f"{shop.store.prefix}jobs", job_id)

    page.goto("doctor")
    page.get_by_role("button", name="Check the queue").click()
    shown(page, "Repair what loses nothing", scripts)
    expect(page.get_by_role("link", name=job_id)).to_be_visible()
    page.get_by_role("button", name="Repair what loses nothing").click()
    expect(page.get_by_text("No entry is deleted that could be a job.")).to_be_visible()
    page.get_by_role("button", name="Repair").click()

    shown(page, "Repaired:", scripts)
    assert shop.state(job_id) is State.READY


def test_a_job_that_is_done_shows_its_result_and_runs_again(shop: Shop, page: Page, scripts: bool) -> None:
    (job_id,) = shop.push("ann@example.com")
    shop.work()

    page.goto(f"job?id={job_id}")
    shown(page, "Result", scripts)
    expect(page.locator("pre", has_text=str(2**70))).to_have_count(2)
    page.get_by_role("button", name="Run again…").click()
    expect(page.get_by_text("Run it again?")).to_be_visible()
    page.get_by_role("button", name="Run again").click()

    expect(page.get_by_text("Retried 1 job.")).to_be_visible()

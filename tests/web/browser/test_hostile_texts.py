"""Texts of jobs, workers and schedules that are markup are shown as text, and never run."""

from urllib.parse import quote

import pytest
from chromium import Page
from storefront import Shop, until

from redisjobs import Schedule, State

pytestmark = pytest.mark.slow

MARKUP = "\"'><img/src=x/onerror=hit=1><script>hit=1</script><svg/onload=hit=1>{{7*7}}"
TYPED = quote(MARKUP)
VIEWS = [
    *("", "failures", "schedules", "workers", "limits", "doctor", "push"),
    *(f"jobs?state={state}" for state in State),
    *(f"{view}={TYPED}" for view in ("name?name", "push?name", "jobs?text", "job?id", "edit?id", "bulk?id")),
    f"jobs?state=dead&fingerprint={TYPED}&worker={TYPED}&reason={TYPED}",
    f"{TYPED}?did={TYPED}&n={TYPED}",
]


@pytest.fixture
def marked(shop: Shop) -> Shop:
    """A shop in which all that a producer, a worker or an operator can name is markup."""
    shop.push(MARKUP, f"{MARKUP}@example.com")
    shop.push_as("ImportCatalogue", {"path": MARKUP})
    shop.work(MARKUP.partition("{")[0])
    until(lambda: all(shop.queue.control.jobs(state) for state in (State.DEAD, State.COMPLETED, State.RUNNING)))
    shop.queue.cancel(*shop.push(MARKUP, delay=60))
    options = {"headers": {"x-from": MARKUP}, "unique": MARKUP}
    shop.push_as(MARKUP, {"to": MARKUP, MARKUP: 1}, job_id=MARKUP, **options)
    shop.push_as(MARKUP, {"to": MARKUP}, job_id=f"{MARKUP}2", delay=60)
    shop.queue.control.pause(MARKUP)
    shop.queue.control.set_limit(MARKUP, max_concurrency=1)
    shop.schedule(MARKUP, Schedule.cron("0 4 * * *"))
    return shop


def test_no_text_runs_in_any_view(marked: Shop, page: Page) -> None:
    page.add_init_script("hit = 0")
    seen = 0
    jobs = [f"job?id={quote(job.job_id)}" for state in State for job in marked.queue.control.jobs(state)]
    for view in (*VIEWS, *jobs):
        page.goto(view)
        assert page.evaluate("hit") == 0, view
        assert page.locator("img, body script, svg[onload]").count() == 0, view
        seen += MARKUP in page.inner_text("body")
    assert seen >= 15

"""Each view by day and by night, on a desk and on a phone."""

import base64
import math
from itertools import product
from pathlib import Path
from random import Random

import pytest
from chromium import Axe, Browser, Page, Scheme, tab
from storefront import Shop, until

from redisjobs import Schedule

pytestmark = pytest.mark.slow

VIEWS = {
    "overview": "",
    "ready": "jobs",
    "running": "jobs?state=running",
    "delayed": "jobs?state=delayed",
    "dead": "jobs?state=dead",
    "completed": "jobs?state=completed",
    "cancelled": "jobs?state=cancelled",
    "failures": "failures",
    "schedules": "schedules",
    "workers": "workers",
    "limits": "limits",
    "doctor": "doctor",
    "push": "push",
    "push-form": "push?name=SendEmail",
    "name": "name?name=SendEmail",
    "missing": "nothing",
}
SCHEMES: tuple[Scheme, ...] = ("light", "dark")
IN_THE_DOCS = {"overview", "failures", "job-dead"}


@pytest.fixture
def busy(shop: Shop) -> dict[str, str]:
    """The addresses of the views of a shop where something of everything is going on."""
    shop.die(*["ann.example.com", "joe at example.com"] * 3, *["list@example.com"] * 40)
    queue = shop.queue
    queue.control.pause("PrintLabel")
    held, cancelled, *_ = shop.push_as("PrintLabel", *({"order": at} for at in range(30)))
    queue.control.hold(held)
    queue.cancel(cancelled)
    invoices = [{"customer": f"c-{at}", "lines": [1, 2, 3], "currency": "CHF"} for at in range(9)]
    shop.push_as("RenderInvoice", *invoices)
    running = shop.begin_import()
    shop.work("mail-2")
    shop.push(*["later@example.com"] * 12, delay=3600)
    shop.schedule("newsletter", Schedule.cron("0 9 * * mon", tz="Europe/Berlin"))
    shop.schedule("sweep", Schedule.cron("*/15 * * * *"))
    queue.schedules.pause("sweep")
    queue.control.set_limit("SendEmail", max_concurrency=20, rate="50/s")
    until(lambda: queue.control.counts().dead == 15 and len(queue.control.workers()) == 2)
    record(shop)
    found = {"dead": queue.control.jobs("dead")[0].job_id, "done": queue.control.jobs("completed")[0].job_id}
    found["cancelled"] = cancelled
    jobs = {name: f"job?id={job_id}" for name, job_id in (found | {"running": running, "held": held}).items()}
    return VIEWS | {f"job-{name}": view for name, view in jobs.items()} | {"edit": f"edit?id={found['dead']}"}


def record(shop: Shop) -> None:
    """Write an hour of statistics, as workers would: a wave of mails, and a slow quarter of an hour."""
    admin, prefix, random = shop.store.admin, shop.store.prefix, Random(7)
    minute = int(admin.time()[0]) // 60
    causes = [group.fingerprint for group in shop.queue.control.dead_groups()]
    for ago in range(1, 60):
        slow = 20 < ago < 34
        done = int(700 + 250 * math.sin(ago / 9) + random.randint(-40, 40))
        dead = random.choice([0, 0, 1, 2]) + 3 * slow
        run = f"run20={done // 3} run50={done // 2} run100={done // 6 - 4} run{500 if slow else 200}=4"
        wait = f"wait5={done // 2} wait20={done // 2 - 9} wait{1000 if slow else 100}=9"
        sums = f"completed={done} retried={random.randint(0, 6)} dead={dead} {run} {wait}"
        part = f"completed={done // 3} run100={done // 4} run500={done // 12} wait10={done // 3}"
        fields = {"all": sums, "job SendEmail": sums, "job RenderInvoice": part}
        fields["queue"] = f"ready={random.randint(5, 40) + 160 * slow} running={random.randint(2, 6) + 8 * slow}"
        fields["causes"] = " ".join(f"{cause}={max(0, dead - at)}" for at, cause in enumerate(causes))
        admin.hset(f"{prefix}minute:{minute - ago}", mapping=fields)
        admin.pexpire(f"{prefix}minute:{minute - ago}", 60_000)


def faults_of(page: Page) -> list[str]:
    """Return what axe finds on the page, in both schemes."""
    faults = list[str]()
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)
        found = Axe().run(page).response["violations"]
        faults += [f"{page.url}, {scheme}: {each['id']}: {each['nodes'][0]['html']}" for each in found]
    return faults


def test_no_view_has_a_fault_of_accessibility(busy: dict[str, str], page: Page) -> None:
    faults = list[str]()
    for view in busy.values():
        page.goto(view)
        faults += faults_of(page)

    assert faults == [], "\n".join(faults)


def test_no_view_of_a_new_queue_has_a_fault_of_accessibility(shop: Shop, page: Page) -> None:
    faults = list[str]()
    for view in ("", "jobs", "failures", "schedules", "workers", "limits", "doctor", "name?name=Nothing"):
        page.goto(view)
        faults += faults_of(page)

    assert faults == [], "\n".join(faults)


def test_no_step_of_an_action_has_a_fault_of_accessibility(shop: Shop, page: Page) -> None:
    (job_id, *_) = shop.die(*["nowhere"] * 3)
    page.goto("jobs?state=dead&name=SendEmail")
    page.get_by_label(f"Select job {job_id}").check()
    page.get_by_role("button", name="Delete selected").click()
    faults = faults_of(page)  # the question
    page.get_by_role("button", name="Delete").click()
    faults += faults_of(page)  # what was done
    page.get_by_role("button", name="Count them…").click()
    page.get_by_text("that match, counted").wait_for()
    page.get_by_label("Pace").fill("often")
    page.get_by_role("button", name="Retry 2 jobs").click()
    faults += faults_of(page)  # the count, and what is wrong
    page.get_by_role("button", name="Retry 2 jobs").click()
    page.get_by_text("2 of 2 retried").wait_for()
    faults += faults_of(page)  # the progress
    page.goto("push?name=SendEmail")
    page.get_by_label("Parameters, as JSON").fill("{")
    page.get_by_role("button", name="Push").click()
    faults += faults_of(page)  # a refusal
    page.keyboard.press("?")
    faults += faults_of(page)  # a dialog

    assert faults == [], "\n".join(faults)


def test_each_view_fits_a_phone_and_no_row_is_without_text(busy: dict[str, str], page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    for name, view in busy.items():
        page.goto(view)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
        rows = page.locator("tbody tr").all_inner_texts()
        assert all(row.strip() for row in rows), name


@pytest.mark.parametrize("queue_name", ["shop"])
def test_pictures_of_the_views_are_made(
    busy: dict[str, str], shop: Shop, browser: Browser, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """With `--pictures FOLDER`, those of all views are kept there."""
    until(lambda: sum(worker.running for worker in shop.queue.control.workers()) == 1)  # with their next heartbeat
    kept = pytestconfig.getoption("--pictures")
    folder, views = Path(kept or tmp_path), busy if kept else IN_THE_DOCS
    folder.mkdir(parents=True, exist_ok=True)
    for width, scheme in product((1440, 390), SCHEMES):
        with tab(browser, shop.base, width=width, scheme=scheme) as (page, _):
            for view in views:
                page.goto(busy[view])
                (folder / f"{view}-{width}-{scheme}.webp").write_bytes(picture(page))

    assert len(list(folder.glob("*.webp"))) >= len(views) * 4


def picture(page: Page) -> bytes:
    """Return the whole page as a WebP, which playwright itself doesn't make."""
    height = page.evaluate("document.documentElement.scrollHeight")
    clip = {"x": 0, "y": 0, "width": page.evaluate("innerWidth"), "height": height, "scale": 1}
    asked = {"format": "webp", "quality": 80, "clip": clip, "captureBeyondViewport": True}
    taken = page.context.new_cdp_session(page).send("Page.captureScreenshot", asked)
    return base64.b64decode(taken["data"])

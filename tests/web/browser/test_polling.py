"""A page reads itself again every 2 seconds, and keeps still where that would disturb."""

from collections.abc import Callable

import pytest
from chromium import Page, Request, expect
from storefront import Shop

pytestmark = pytest.mark.slow

Act = Callable[[Page], object]


class Polls:
    """A page whose clock stands still, and what it reads as its time passes."""

    def __init__(self, page: Page) -> None:
        self._page, self._count, self._running = page, 0, 0
        page.clock.install(time=0)
        page.on("request", lambda request: self._note(request, 1))
        page.on("requestfinished", lambda request: self._note(request, -1))

    def _note(self, request: Request, by: int) -> None:
        if request.headers.get("hx-request") == "true":
            self._running += by
            self._count += by > 0

    def open(self, view: str) -> None:
        """Open a view, and stop its clock."""
        self._page.goto(view)
        self._page.clock.pause_at(3_600_000)

    def after(self, seconds: int) -> int:
        """Let this time pass in the browser; return how many times the page read itself."""
        self._wait()
        before = self._count
        for _ in range(seconds):
            self._page.clock.run_for(1000)
            self._wait()
        return self._count - before

    def _wait(self) -> None:
        """Wait until each read has its answer: the page begins no other one before."""
        self._page.evaluate("0")  # brings what was noted before
        while self._running:
            self._page.wait_for_timeout(10)


@pytest.fixture
def polls(page: Page) -> Polls:
    return Polls(page)


def test_a_view_goes_on_to_show_what_is_new(shop: Shop, page: Page) -> None:
    page.goto("jobs")
    for count in (1, 2):
        shop.push("ann@example.com")
        expect(page.locator("tbody tr")).to_have_count(count)


def test_a_view_is_read_every_two_seconds(page: Page, polls: Polls) -> None:
    polls.open("jobs")
    expect(page.locator("#pace")).to_have_text("live, 2 s")

    assert polls.after(6) == 3


def _select_text(page: Page) -> None:
    page.locator("tbody td.wide").first.select_text()


def _clear_text(page: Page) -> None:
    page.evaluate("getSelection().removeAllRanges()")


def _fill(page: Page, text: str) -> None:
    page.locator("#search").fill(text)
    page.locator("#search").blur()


def _hide(page: Page, hidden: str = "true") -> None:
    page.evaluate(
        f"Object.defineProperty(document, 'hidden', {{configurable: true, get: () => {hidden}}});"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )


PAUSES: dict[str, tuple[Act, Act]] = {
    "by its button": (lambda page: page.locator("#pace").click(), lambda page: page.locator("#pace").click()),
    "by a key": (lambda page: page.keyboard.press("p"), lambda page: page.keyboard.press("p")),
    "while a row is selected": (
        lambda page: page.locator("td.pick input").first.check(),
        lambda page: page.keyboard.press("Escape"),
    ),
    "while text is selected": (_select_text, _clear_text),
    "while a field is edited": (
        lambda page: _fill(page, "ann"),
        lambda page: _fill(page, ""),
    ),
    "while focus is inside": (
        lambda page: page.locator("tbody a").first.focus(),
        lambda page: page.locator("tbody a").first.blur(),
    ),
    "while it is hidden": (_hide, lambda page: _hide(page, "false")),
}


def test_updates_pause_while_they_would_disturb_and_go_on_afterwards(shop: Shop, page: Page, polls: Polls) -> None:
    shop.push("ann@example.com")
    polls.open("jobs")

    for how, (pause, go_on) in PAUSES.items():
        pause(page)
        page.clock.run_for(1)  # the button shows it a moment later
        expect(page.locator("#pace"), how).to_have_text("paused")
        assert polls.after(4) == 0, how
        go_on(page)
        page.clock.run_for(1)
        expect(page.locator("#pace"), how).to_have_text("live, 2 s")
        assert polls.after(2) == 1, how


def test_a_job_that_ends_and_leaves_no_trace_is_said_to_be_gone(shop: Shop, page: Page) -> None:
    (job_id,) = shop.push("ann@example.com")
    page.goto(f"job?id={job_id}")
    expect(page.locator(".badge", has_text="ready")).to_be_visible()

    shop.queue.cancel(job_id)
    shop.queue.control.delete(job_id)

    expect(page.get_by_text("It is not on the queue")).to_be_visible()
    expect(page.locator("#banner")).to_be_hidden()


def test_an_open_traceback_stays_open(shop: Shop, page: Page, polls: Polls) -> None:
    (job_id,) = shop.die("nowhere")
    polls.open(f"job?id={job_id}")

    page.get_by_text("Whole traceback").click()
    page.evaluate("document.activeElement.blur()")

    assert polls.after(4) == 0
    expect(page.get_by_text("Traceback (most recent call last)")).to_be_visible()


def test_focus_and_the_place_on_the_page_survive_an_update(shop: Shop, page: Page) -> None:
    shop.push(*["ann@example.com"] * 25)
    page.goto("jobs")
    page.get_by_role("link", name="Limits").focus()
    page.evaluate("scrollTo(0, 500)")

    shop.push("ann@example.com")

    expect(page.get_by_text("26 ready")).to_be_attached()
    expect(page.get_by_role("link", name="Limits")).to_be_focused()
    assert page.evaluate("scrollY") == 500


def test_an_answer_that_comes_while_a_row_is_being_selected_is_dropped(shop: Shop, page: Page) -> None:
    shop.push("ann@example.com")
    page.goto("jobs")

    def late(route: object) -> None:
        page.evaluate("document.querySelector('td.pick input').checked = true")
        route.continue_()  # type: ignore[attr-defined]

    page.route("**/jobs", late)
    shop.push("ann@example.com")
    with page.expect_response("**/jobs"):
        pass
    page.wait_for_load_state("networkidle")

    expect(page.locator("td.pick input:checked")).to_have_count(1)
    expect(page.locator("tbody tr")).to_have_count(1)


def test_a_page_whose_viewer_is_logged_out_shows_no_login_inside(shop: Shop, page: Page) -> None:
    shop.push("ann@example.com")
    page.goto("jobs")

    login = {"location": page.url.replace("jobs", "limits")}
    page.route("**/jobs", lambda route: route.fulfill(status=303, headers=login))

    expect(page.locator("#banner")).to_contain_text("You are no longer logged in.")
    expect(page.locator("tbody tr")).to_have_count(1)
    page.unroute("**/jobs")
    expect(page.locator("#banner")).to_be_hidden()


def test_a_page_whose_server_goes_away_says_so_and_goes_on_when_it_is_back(shop: Shop, page: Page) -> None:
    shop.push("ann@example.com")
    page.goto("jobs")

    shop.close()
    expect(page.locator("#banner")).to_contain_text("The page's server does not answer.")
    expect(page.locator("#pace")).to_have_text("no answer")
    expect(page.locator("tbody tr")).to_have_count(1)  # what was there stays
    shop.push("ann@example.com")
    shop.open()

    expect(page.locator("tbody tr")).to_have_count(2)
    expect(page.locator("#banner")).to_be_hidden()


def test_a_redis_that_goes_away_is_said_and_the_page_goes_on_when_it_is_back(shop: Shop, page: Page) -> None:
    shop.push("ann@example.com")
    page.goto("jobs")
    expect(page.locator("tbody tr")).to_have_count(1)

    shop.away(7)  # the next request begins within 2 seconds, and waits for 3
    expect(page.locator("#banner")).to_contain_text("Redis does not answer.")
    expect(page.locator("tbody tr")).to_have_count(1)  # what was there stays

    expect(page.locator("#banner")).to_be_hidden()
    expect(page.locator("#pace")).to_have_text("live, 2 s")

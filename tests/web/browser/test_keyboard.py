"""All of the page by the keyboard alone."""

import re

import pytest
from chromium import Page, expect
from storefront import Shop, until

from redisjobs import State

pytestmark = pytest.mark.slow


def focused(page: Page) -> str:
    """Return the text of what has the focus, or its label."""
    said: str = page.evaluate(
        "(at => at.getAttribute('aria-label') || at.innerText || at.name || at.tagName)(document.activeElement)"
    )
    return " ".join(said.split())


def test_tab_goes_through_the_page_in_its_order_and_each_stop_is_visible(shop: Shop, page: Page) -> None:
    shop.push("ann@example.com")
    page.goto("jobs")

    stops = list[str]()
    while True:
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement === document.body"):
            break
        stops.append(focused(page))
        is_marked = "getComputedStyle(document.activeElement).outlineStyle !== 'none'"
        assert page.evaluate(is_marked), stops
        assert page.evaluate("document.activeElement.getBoundingClientRect().top >= 0"), stops

    order = ["Skip to the content", "Overview", "Limits", "Push a job", "Light or dark"]
    order += ["Text in parameters or error, or a job's id", "Find", "Count them…", "SendEmail"]
    places = [stops.index(stop) for stop in order]
    assert places == sorted(places), stops


def test_the_skip_link_leads_to_the_content(page: Page) -> None:
    page.goto("jobs")
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the content")).to_be_in_viewport()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")

    assert focused(page).startswith("Running")


def test_g_and_a_letter_lead_to_each_view(page: Page) -> None:
    page.goto("")
    for letter, view in {
        "j": "jobs",
        "f": "failures",
        "s": "schedules",
        "w": "workers",
        "l": "limits",
        "d": "doctor",
        "o": "",
    }.items():
        page.keyboard.press("g")
        page.keyboard.press(letter)
        page.wait_for_url(re.compile(rf"/{view}$"))


def test_rows_are_walked_selected_and_acted_on(shop: Shop, page: Page) -> None:
    ids = shop.die("nowhere", "elsewhere")
    page.goto("jobs?state=dead")

    for key in ("j", "j", "x", "k", "x"):
        page.keyboard.press(key)
    expect(page.locator("td.pick input:checked")).to_have_count(2)
    page.keyboard.press("Escape")
    expect(page.locator("td.pick input:checked")).to_have_count(0)
    page.keyboard.press("j")
    page.keyboard.press("x")
    while focused(page) != "Delete selected":
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Delete 1 job?")).to_be_focused()  # a second Enter deletes nothing
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")

    expect(page.get_by_text("Deleted 1 job.")).to_be_visible()
    assert sum(shop.state(job_id) is State.DEAD for job_id in ids) == 1
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="SendEmail")).to_be_visible()


def test_the_search_field_takes_letters_and_escape_leaves_it(shop: Shop, page: Page) -> None:
    (job_id, _) = shop.push("ann@example.com", "joe@example.com")
    page.goto("jobs")

    page.keyboard.press("/")
    page.keyboard.type("ann?pgj")
    expect(page.locator("#search")).to_have_value("ann?pgj")
    expect(page.locator("#keys")).to_be_hidden()
    page.keyboard.press("Escape")
    expect(page.locator("#search")).not_to_be_focused()
    page.keyboard.press("/")
    page.locator("#search").fill("ann@")
    page.keyboard.press("Enter")

    expect(page.locator("tbody tr")).to_have_count(1)
    expect(page.locator("tbody")).to_contain_text(job_id)


def test_the_list_of_keys_opens_and_closes(page: Page) -> None:
    page.goto("")

    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("Next and previous row")
    page.keyboard.press("g")
    page.keyboard.press("j")
    assert page.url.endswith("/")  # the keys of the page behind it rest
    page.keyboard.press("Escape")

    expect(page.locator("#keys")).to_be_hidden()


def test_the_theme_is_chosen_and_kept(page: Page) -> None:
    page.emulate_media(color_scheme="light")
    page.goto("")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")

    page.get_by_role("button", name="Light or dark").click()
    until(lambda: page.evaluate("getComputedStyle(document.body).backgroundColor") != light)
    page.goto("jobs")

    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light

"""What a viewer must not see: hidden in parameters and results, and where errors repeat it."""

import html
import json
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from viewer import Mail, Viewer, dead, run_all, words

from redisjobs import JobName, JobQueue, Priority, State, no_retry
from redisjobs.model.info import JobInfo
from redisjobs.model.why import Cause
from redisjobs.web import Dashboard
from redisjobs.web.board.board import Board
from redisjobs.web.board.redaction import Redaction
from redisjobs.web.dashboard import VIEWS
from redisjobs.web.show.format import json_lines

pytestmark = pytest.mark.anyio


def hiding(name: str, field: str, text: str) -> str:
    return re.sub("nowhere", "#", text)


@pytest.mark.parametrize("redact", [["to"], hiding])
async def test_what_is_hidden_stands_nowhere_not_even_in_errors_or_by_a_search(
    mails: JobQueue, redact: list[str] | Callable[[str, str, str], str]
) -> None:
    (job_id,) = await dead(mails)
    viewer = Viewer(Dashboard(mails, access=lambda _: "all", redact=redact), mails.name)

    pages = {view: (await viewer.get(f"{view}?id={job_id}&state=dead")).text for view in VIEWS}

    assert [view for view, page in pages.items() if "such place: nowhere" in page or '"nowhere"' in page] == []
    assert "A part of the stored parameters is hidden from you" in words(pages["edit"])
    assert "No dead job matches." in await viewer.see("jobs?state=dead&text=nowhere")
    assert "Mail" in await viewer.see("jobs?state=dead&text=number")
    bulk = await viewer.post("count-bulk", {"kind": "retry", "state": "dead", "text": "nowhere"})
    assert bulk.status_code == 422


async def test_a_hidden_value_is_hidden_in_whatever_form_an_error_repeats_it(mails: JobQueue) -> None:
    secret = 'it\'s "ö"\n\\'
    value = {"password": secret, "Deep": [{"TOKEN": ["abc", 12345]}], "pin": None}

    @mails.register(JobName("Login", dict[str, Any]), retry=no_retry())
    async def login(parameters: dict[str, Any]) -> None:
        raise ValueError(f"{secret} {secret!r} abc 12345 {json.dumps(secret)} 'pin': None")

    handle = await mails.push(value, JobName("Login", dict[str, Any]), headers={"Token": "xyz", "trace": "abc-1"})
    await run_all(mails)
    viewer = Viewer(Dashboard(mails, redact=["password", "token", "pin"]), mails.name)

    pages = [html.unescape((await viewer.get(view)).text) for view in (f"job?id={handle.id}", "failures", "")]

    for page in pages:
        for hidden in ("it's", "12345", "xyz", "abc"):
            assert hidden not in page
        assert "ValueError: •••" in page


async def test_a_hidden_value_that_an_error_cuts_off_is_hidden_as_far_as_it_goes(mails: JobQueue) -> None:
    secret = "Dear Ann, " * 150

    @mails.register(JobName("Letter", dict[str, Any]), retry=no_retry())
    async def write(parameters: dict[str, Any]) -> None:
        raise ValueError(f"no stamp for {secret}") from RuntimeError(secret * 5)

    handle = await mails.push({"body": secret}, JobName("Letter", dict[str, Any]))
    await run_all(mails)
    viewer = Viewer(Dashboard(mails, redact=["body"]), mails.name)

    for view in (f"job?id={handle.id}", "jobs?state=dead", "failures"):
        page = (await viewer.get(view)).text
        assert "ValueError: no stamp for •••" in html.unescape(page)
        assert "Ann" not in page


async def test_what_was_hidden_before_an_edit_stays_hidden_in_the_history(mails: JobQueue) -> None:
    letters = JobName("Letter", dict[str, Any])

    @mails.register(letters, retry=no_retry())
    async def write(parameters: dict[str, Any]) -> None:
        raise ValueError(f"wrong: {parameters['body']}")

    handle = await mails.push({"body": "an old secret " * 100}, letters)
    await run_all(mails)
    await mails.control.requeue(handle.id, parameters={"body": "a new secret"})
    found = await mails.get(handle.id)
    assert found is not None
    assert "old secret" in str(found.history), "the notes are cut, and the page must hide what is left of them"

    shown = Redaction(["body"]).job(found)

    assert [word for word in ("old", "new", "secret") if word in str(shown)] == []


@pytest.mark.parametrize("redact", [["to"], hiding])
async def test_limit_keys_that_are_made_of_what_is_hidden_are_hidden(
    mails: JobQueue, redact: list[str] | Callable[[str, str, str], str]
) -> None:
    await mails.control.set_limit("Mail", rate="1/h", burst=1)
    keys = ("of nowhere", "of nowhere", "to nowhere", "to nowhere")
    handles = [await mails.push(Mail("nowhere"), limit_key=key) for key in keys]
    await run_all(mails)
    board = Board(mails, "", Redaction(redact))

    (limit,) = await board.limits()
    waits = await board.why(handles[1].id)

    assert [each.waiting for each in limit.keys.values()] == [1, 1]
    assert waits.cause is Cause.LIMIT
    assert "limit_key" in waits.facts
    assert "nowhere" not in f"{limit} {waits}"


@pytest.mark.parametrize("redact", [["to"], hiding])
async def test_where_a_search_goes_on_does_not_tell_what_is_hidden(
    mails: JobQueue, redact: list[str] | Callable[[str, str, str], str]
) -> None:
    await mails.push_many([Mail("nowhere") for _ in range(40)])
    board = Board(mails, "", Redaction(redact))

    hidden, none = [await board.jobs(State.READY, {"text": text}, "", 25) for text in ("nowhere", "elsewhere")]
    shown = await board.jobs(State.READY, {"text": "number"}, "", 25)

    assert hidden == none
    assert len(shown.jobs) == 25


def test_a_job_with_more_hidden_values_than_can_be_searched_for_shows_no_error() -> None:
    many = {"data": {str(number): f"value {number}" for number in range(1000)}, "to": "ann"}
    job = JobInfo("1", "Mail", State.DEAD, Priority.NORMAL, json.dumps(many), error="no value 7", traceback="line")

    shown = Redaction(["data"]).job(job)

    assert (json.loads(shown.parameters), shown.error) == ({"data": "•••", "to": "ann"}, "•••")


def test_each_beginning_of_a_hidden_value_is_hidden_where_a_text_was_cut() -> None:
    text = "abc… abcd… xab… abce " * 1000
    job = JobInfo("1", "Mail", State.DEAD, Priority.NORMAL, '{"data": "abcdef"}', error=text)

    assert Redaction(["data"]).job(job).error == "•••… •••… xab… abce " * 1000


@pytest.mark.parametrize("text", ['{"data": [' + '\\"' * 200_000, '"data": {"' + '\\"' * 200_000])
def test_a_text_of_quotes_does_not_hold_up_the_page(text: str) -> None:
    job = JobInfo("1", "Mail", State.DEAD, Priority.NORMAL, text, error=text)
    began = time.monotonic()

    assert "•••" in Redaction(["data"]).job(job).parameters
    json_lines(text)

    assert time.monotonic() - began < 5, "it takes minutes if each quote is a beginning"


async def test_a_redact_that_raises_hides_everything(mails: JobQueue) -> None:
    def broken(name: str, field: str, text: str) -> str:
        raise KeyError("broken")

    (job_id,) = await dead(mails)
    viewer = Viewer(Dashboard(mails, redact=broken), mails.name)

    page = (await viewer.get(f"job?id={job_id}")).text

    assert "•••" in page
    assert "nowhere" not in page

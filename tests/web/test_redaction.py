"""What a viewer must not see: hidden in parameters and results, and where errors repeat it."""

import html
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from viewer import Viewer, dead, run_all, words

from redisjobs import JobName, JobQueue, no_retry
from redisjobs.web import Dashboard
from redisjobs.web.dashboard import VIEWS

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


async def test_a_redact_that_raises_hides_everything(mails: JobQueue) -> None:
    def broken(name: str, field: str, text: str) -> str:
        raise KeyError("broken")

    (job_id,) = await dead(mails)
    viewer = Viewer(Dashboard(mails, redact=broken), mails.name)

    page = (await viewer.get(f"job?id={job_id}")).text

    assert "•••" in page
    assert "nowhere" not in page

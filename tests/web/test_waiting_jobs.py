"""Suspended jobs on the page: in lists, their story, a form that sends a signal, and a retry from a step."""

import html
import re
from typing import Any

import pytest
from viewer import Mail, Viewer, run_all, words

from redisjobs import JobContext, JobQueue, PushedJob, State, no_retry
from redisjobs.web import Dashboard
from redisjobs.web.board.access import Verb

pytestmark = pytest.mark.anyio


class Shop:
    """A queue with a handler that charges a card, waits for a person, and fails."""

    def __init__(self, queue: JobQueue) -> None:
        self.queue = queue
        self.charged = 0
        self.order = queue.job(retry=no_retry())(self._order)

    def charge(self, card: str) -> dict[str, str]:
        self.charged += 1
        return {"token": f"token of {card}"}

    async def _order(self, card: str, context: JobContext) -> None:
        await context.step("charge", self.charge, card)
        await context.wait_for("approved", timeout=3600)
        raise ValueError("no mail")

    async def suspended(self, card: str = "1234") -> PushedJob:
        job = await self.order.push(card)
        await run_all(self.queue)
        return job

    async def dead(self) -> PushedJob:
        job = await self.suspended()
        await self.queue.signal(job, "approved", {"by": "ann"})
        await run_all(self.queue)
        return job


@pytest.fixture
def shop(mails: JobQueue) -> Shop:
    return Shop(mails)


async def state_of(queue: JobQueue, job: PushedJob) -> State | None:
    found = await queue.get(job)
    return found.state if found else None


def fresh(queue: JobQueue, redact: Any = None) -> Viewer:
    """A viewer of a page that has read nothing yet: what it has read, it shows for a second."""
    return Viewer(Dashboard(queue, access=lambda _: "all", redact=redact), queue.name)


async def test_suspended_jobs_have_a_tile_and_a_list(shop: Shop, viewer: Viewer) -> None:
    assert "Suspended" not in await fresh(shop.queue).see()

    await shop.suspended()

    assert "Suspended 1 wait in a handler" in await viewer.see()
    assert "Suspended 1" in await viewer.see("jobs?state=ready")
    assert 'signal approved {"card":"1234"}' in await viewer.see("jobs?state=suspended")
    assert "No suspended job matches." in await viewer.see("jobs?state=suspended&name=Mail")


async def test_the_story_of_a_job_has_its_steps_and_waits_in_order_with_their_values(
    shop: Shop, viewer: Viewer
) -> None:
    job = await shop.suspended()

    page = await viewer.see(f"job?id={job.id}")

    story = page.partition("What happened")[2]
    assert re.search(
        r'Pushed .*Step charge: saved {"token":"token of 1234"} .*Waits for signal approved .*'
        r"The wait is over, at the latest",
        story,
    )
    assert "It has been suspended since" in page
    await shop.queue.signal(job, "approved", {"by": "ann"})
    await run_all(shop.queue)
    story = (await fresh(shop.queue).see(f"job?id={job.id}")).partition("What happened")[2]
    assert re.search(
        r'Step charge: saved .*Step approved: signal came {"by":"ann"} .*It became a dead letter', story
    )


async def test_a_form_sends_a_signal_with_a_value(shop: Shop, viewer: Viewer) -> None:
    job = await shop.suspended()
    page = (await viewer.get(f"job?id={job.id}")).text
    assert 'value="approved"' in page

    shown = await viewer.act("signal", id=job.id, name="approved", value='{"by": "ann"}', back=f"job?id={job.id}")

    assert "the job took it, and goes on" in shown
    assert await state_of(shop.queue, job) is State.READY
    assert [step.value for step in await shop.queue.control.steps(job)][-1] == '{"by":"ann"}'


async def test_a_signal_without_a_value_is_null_and_one_that_comes_early_is_kept(
    shop: Shop, viewer: Viewer
) -> None:
    job = await shop.suspended()

    assert "finds it when it waits for it" in await viewer.act("signal", id=job.id, name="paid", value="")

    again = await viewer.post("signal", {"id": job.id, "name": "paid", "value": "1"})
    assert again.status_code == 409
    assert "keeps an earlier signal of this name" in words(again.text)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "approved", "value": "ann"}, "The value is not JSON"),
        ({"name": "a b", "value": "1"}, "can't name a signal"),
        ({"name": "", "value": "1"}, "can't name a signal"),
        ({"name": "x", "value": f'"{"a" * 600_000}"'}, "the limit is"),
    ],
)
async def test_a_signal_that_can_be_none_is_refused(
    shop: Shop, viewer: Viewer, fields: dict[str, str], said: str
) -> None:
    job = await shop.suspended()

    answer = await viewer.post("signal", {"id": job.id, **fields})

    assert answer.status_code in (413, 422)
    assert said in words(answer.text) or answer.status_code == 413
    assert await state_of(shop.queue, job) is State.SUSPENDED


async def test_a_signal_to_a_job_that_has_ended_or_is_dead_says_so(shop: Shop, viewer: Viewer) -> None:
    job = await shop.dead()

    dead = await viewer.post("signal", {"id": job.id, "name": "approved"})
    gone = await viewer.post("signal", {"id": "gone", "name": "approved"})

    assert "it is a dead letter" in words(dead.text)
    assert "it is not there any more" in words(gone.text)


async def test_only_a_viewer_with_the_verb_sees_the_form_and_sends_a_signal(shop: Shop) -> None:
    job = await shop.suspended()
    viewer = Viewer(Dashboard(shop.queue, access=lambda _: {Verb.CANCEL}), shop.queue.name)

    page = await viewer.see(f"job?id={job.id}")
    answer = await viewer.post("signal", {"id": job.id, "name": "approved"})

    assert "Send the signal" not in page
    assert answer.status_code == 403
    assert await state_of(shop.queue, job) is State.SUSPENDED


async def test_a_signal_from_another_site_is_refused(shop: Shop, viewer: Viewer) -> None:
    job = await shop.suspended()

    answer = await viewer.post(
        "signal", {"id": job.id, "name": "approved"}, headers={"sec-fetch-site": "cross-site"}
    )

    assert answer.status_code == 403
    assert await state_of(shop.queue, job) is State.SUSPENDED


async def test_a_job_that_neither_waits_nor_has_steps_has_no_form_for_signals(
    mails: JobQueue, viewer: Viewer
) -> None:
    job = await mails.push(Mail("joe"))

    assert "Send the signal" not in await viewer.see(f"job?id={job.id}")


async def test_a_dead_letter_is_retried_from_a_step_after_a_question(shop: Shop, viewer: Viewer) -> None:
    job = await shop.dead()
    page = (await viewer.get(f"job?id={job.id}")).text
    assert [*re.findall(r'<option value="(\d*)">([^<]+)', page)] == [
        ("", "Go on where it stopped"),
        ("2", "From step approved"),
        ("1", "From step charge"),
        ("0", "From the start"),
    ]

    asked = await viewer.post("retry", {"id": job.id, "from_step": "1"})
    assert "forgets that step and those after it" in words(asked.text)
    await viewer.act("retry", id=job.id, from_step="1", sure="1")
    await run_all(shop.queue)

    assert shop.charged == 2
    assert await state_of(shop.queue, job) is State.SUSPENDED


@pytest.mark.parametrize(("from_step", "charged"), [("", 1), ("2", 1), ("0", 2)])
async def test_a_retry_goes_on_where_it_stopped_from_a_step_or_from_the_start(
    shop: Shop, viewer: Viewer, from_step: str, charged: int
) -> None:
    job = await shop.dead()

    await viewer.act("retry", id=job.id, from_step=from_step, sure="1")
    await run_all(shop.queue)

    assert shop.charged == charged


@pytest.mark.parametrize("wrong", ["9", "one", "-1"])
async def test_a_retry_from_a_step_that_was_not_saved_changes_nothing(
    shop: Shop, viewer: Viewer, wrong: str
) -> None:
    job = await shop.dead()

    answer = await viewer.post("retry", {"id": job.id, "from_step": wrong, "sure": "1"})

    assert answer.status_code == 422
    assert await state_of(shop.queue, job) is State.DEAD


async def test_all_suspended_jobs_that_match_are_counted_and_cancelled(shop: Shop, viewer: Viewer) -> None:
    for card in ("1", "2"):
        await shop.suspended(card)
    page = await viewer.see("jobs?state=suspended")
    assert "Cancel selected" in page
    assert "Hold selected" in page

    answer = await viewer.post("count-bulk", {"kind": "cancel", "state": "suspended"})

    assert answer.status_code == 303


# What is hidden


def hiding(name: str, field: str, text: str) -> str:
    return text.replace("1234", "#")


@pytest.mark.parametrize("redact", [["card", "token"], hiding])
async def test_hidden_values_of_steps_stand_nowhere(shop: Shop, redact: Any) -> None:
    job = await shop.suspended()

    for _ in range(2):
        viewer = fresh(shop.queue, redact)
        for view in (f"job?id={job.id}", "jobs?state=suspended", "jobs?state=dead", ""):
            assert "1234" not in html.unescape((await viewer.get(view)).text)
        assert "Step charge: saved" in await viewer.see(f"job?id={job.id}")
        await shop.queue.signal(job, "approved", {"token": "1234"})
        await run_all(shop.queue)
    assert await state_of(shop.queue, job) is State.DEAD


async def test_the_name_of_a_signal_is_filled_in_unless_what_is_shown_may_be_another(shop: Shop) -> None:
    job = await shop.suspended()

    filled = [
        re.findall(
            r'name="name" [^>]*value="([^"]*)"', (await fresh(shop.queue, redact).get(f"job?id={job.id}")).text
        )
        for redact in (None, ["card"], lambda name, field, text: "***" if field == "step" else text)
    ]

    assert filled == [["approved"], ["approved"], [""]]


async def test_the_name_of_a_signal_that_is_made_of_what_is_hidden_is_hidden(mails: JobQueue) -> None:
    @mails.job
    async def wait(card: str, context: JobContext) -> None:
        await context.step(f"charge-{card}", int)
        await context.wait_for(f"paid-{card}")

    job = await wait.push("1234")
    await run_all(mails)

    page = html.unescape((await fresh(mails, ["card"]).get(f"job?id={job.id}")).text)

    assert "paid-•••" in page
    assert "1234" not in page

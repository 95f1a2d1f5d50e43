"""Parents and children on the page: the story as a tree with links, the cancel, the retry, and what is hidden."""

import html
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from viewer import Viewer, run_all, words

from redisjobs import JobContext, JobInfo, JobQueue, Priority, PushedJob, State, no_retry
from redisjobs.control import ChildGroup
from redisjobs.web import Dashboard
from redisjobs.web.board.filters import key_of
from redisjobs.web.pages.job import story

pytestmark = pytest.mark.anyio


class Press:
    """A queue whose books run pages, which are printed, fail, or are due in an hour."""

    def __init__(self, queue: JobQueue) -> None:
        self.queue = queue
        self.fails = False
        self.page = queue.job(name="page", retry=no_retry())(self._page)
        self.book = queue.job(name="book", retry=no_retry())(self._book)

    async def _page(self, kind: str) -> dict[str, str]:
        if kind.startswith("fails"):
            raise ValueError(f"no paper for {kind}")
        return {"token": f"token of {kind}"}

    async def _book(self, kinds: list[str], name: str, context: JobContext) -> None:
        later = self.page.options(delay=3600)
        pages = [(later if kind == "later" else self.page).prepare(kind) for kind in kinds]
        await context.run_all(pages, on_failure="return", name=name)
        if self.fails:
            raise ValueError("no glue")

    async def parent(self, *kinds: str, name: str = "pages") -> PushedJob:
        job = await self.book.push([*kinds], name)
        await run_all(self.queue)
        return job

    async def ids(self, parent: PushedJob) -> list[str]:
        (group,) = await self.queue.control.children(parent)
        return [child.job_id for child in group.children]


@pytest.fixture
def press(mails: JobQueue) -> Press:
    return Press(mails)


def fresh(queue: JobQueue, redact: Any = None) -> Viewer:
    """A viewer of a page that has read nothing yet: what it has read, it shows for a second."""
    return Viewer(Dashboard(queue, access=lambda _: "all", redact=redact), queue.name)


async def test_the_story_of_a_parent_shows_the_children_that_it_waits_for_as_a_tree_with_links(
    press: Press, viewer: Viewer
) -> None:
    parent = await press.parent("one", "fails", "later")
    ids = await press.ids(parent)

    page = (await viewer.get(f"job?id={parent.id}")).text

    story = words(page).partition("What happened")[2]
    assert re.search(
        rf'Waits for children of pages: 2 of 3 have ended completed {ids[0]} {{"token":"token of one"}} '
        rf"dead {ids[1]} ValueError: no paper for fails delayed, no worker {ids[2]} ",
        story,
    )
    tree = page.partition('class="children"')[2].partition("</ul>")[0]
    assert re.findall(r'href="[^"]*job\?id=([^"&]+)"', tree) == [key_of(job_id) for job_id in ids]
    for job_id in ids[1:]:
        assert (await viewer.get(f"job?id={key_of(job_id)}")).status_code == 200


async def test_the_story_of_a_dead_letter_has_the_children_below_their_step(press: Press, viewer: Viewer) -> None:
    press.fails = True
    parent = await press.parent("one")

    story = (await viewer.see(f"job?id={parent.id}")).partition("What happened")[2]

    assert f"Step pages: children have ended completed {(await press.ids(parent))[0]}" in story


async def test_a_story_shows_twenty_children_of_a_step_and_how_many_more_there_are(
    press: Press, viewer: Viewer
) -> None:
    parent = await press.parent(*["one"] * 24, "later")

    page = await viewer.see(f"job?id={parent.id}")

    assert page.count("token of one") == 20
    assert "and 5 more of pages" in page


async def test_a_story_shows_the_newest_groups_of_children(press: Press, viewer: Viewer) -> None:
    @press.queue.job
    async def shelf(context: JobContext) -> None:
        for number in range(12):
            await context.run(press.page.prepare(f"kind-{number:02}"))
        await context.wait_for("sold")

    job = await shelf.push()
    await run_all(press.queue)

    page = await viewer.see(f"job?id={job.id}")

    assert [f"token of kind-{number:02}" in page for number in range(12)] == [False] * 2 + [True] * 10


def test_children_that_a_dead_letter_did_not_wait_for_have_a_place_in_its_story() -> None:
    at, group = datetime.now(UTC), ChildGroup("pages", 3, 3)
    dead = JobInfo("a", "book", State.DEAD, Priority.NORMAL, "{}", failed_at=at)

    (moment, _) = story(dead, [], [group])

    assert (moment.text, moment.at, moment.groups) == ("It has children that it did not wait for", at, [group])


async def test_a_child_links_to_its_parent(press: Press, viewer: Viewer) -> None:
    parent = await press.parent("later")
    (child,) = await press.ids(parent)

    page = (await viewer.get(f"job?id={child}")).text

    assert f"Child of {parent.id} , step pages" in words(page)
    assert "Pushed by" not in words(page.partition("Facts")[2])
    assert f'job?id={key_of(parent.id)}"' in page


async def test_the_question_before_a_cancel_says_how_many_children_are_cancelled_too(
    press: Press, viewer: Viewer
) -> None:
    parent = await press.parent("one", "later", "later")

    asked = words((await viewer.post("cancel", {"id": parent.id})).text)
    assert "Cancel 1 job, and 2 children that have not ended? This can't be undone." in asked
    await viewer.act("cancel", id=parent.id, sure="1")

    assert (await press.queue.control.counts()).delayed == 0


async def test_a_retried_child_whose_parent_had_gone_on_is_a_job_by_itself_which_the_page_says(
    press: Press, viewer: Viewer
) -> None:
    press.fails = True
    first, second = await press.ids(await press.parent("fails", "fails"))

    said = await viewer.act("retry", id=first, back=f"job?id={first}")
    edited = await viewer.act("edit", id=second, parameters='{"kind": "one"}')

    both = "Retried 1 job. The parent of a child had gone on, so the child is a job by itself."
    assert both in said
    assert both in edited
    assert "Its parent had gone on, so it is a job by itself" in said.partition("What happened")[2]


async def test_a_retried_child_whose_parent_waits_is_retried_as_any_job(press: Press, viewer: Viewer) -> None:
    parent = await press.parent("fails", "later")

    said = await viewer.act("retry", id=(await press.ids(parent))[0])

    assert "by itself" not in said


# What is hidden


def hiding(name: str, field: str, text: str) -> str:
    return text.replace("1234", "#")


@pytest.mark.parametrize("redact", [["kind", "kinds", "token"], hiding])
async def test_hidden_values_of_children_stand_nowhere(press: Press, redact: Any) -> None:
    for press.fails in (False, True):
        parent = await press.parent("1234", "fails-1234", *([] if press.fails else ["later"]), name="print-1234")
        ids = await press.ids(parent)
        viewer = fresh(press.queue, redact)
        for job_id in (parent.id, *ids):
            assert "1234" not in html.unescape((await viewer.get(f"job?id={job_id}")).text)
        page = await viewer.see(f"job?id={parent.id}")
        assert re.search(rf"completed {ids[0]} .*dead {ids[1]}", page), page
        found = await press.queue.get(parent)
        assert found is not None
        assert found.state is (State.DEAD if press.fails else State.SUSPENDED)

"""The command line about jobs that run children: the tree of `job`, the list of all, `why`, `cancel`, requeues."""

import json
import re
from typing import Any

import anyio
import pytest
from commands import cli

from redisjobs import JobContext, JobQueue, no_retry, sync
from redisjobs.cli.errors import CommandError
from redisjobs.worker.worker import Worker


class Press:
    """Pushes a book by code, and runs it in a worker. Its pages are printed, fail, or are due in an hour."""

    def __init__(self, there: sync.JobQueue) -> None:
        self._there = there
        self.fails = False

    def parent(self, *kinds: str) -> str:
        """Push a book, and run what is ready; return its id."""
        return anyio.run(self._run, kinds)

    async def _run(self, kinds: tuple[str, ...]) -> str:
        async with JobQueue(self._there.driver.where, self._there.name) as queue:

            @queue.job(retry=no_retry())
            async def page(kind: str) -> str:
                if kind == "fails":
                    raise ValueError("no paper")
                return f"printed {kind}"

            @queue.job(retry=no_retry())
            async def book(kinds: list[str], context: JobContext) -> None:
                await context.step("bind", lambda: "bound")
                later = page.options(delay=3600)
                pages = [(later if kind == "later" else page).prepare(kind) for kind in kinds]
                await context.run_all(pages, on_failure="return")
                if self.fails:
                    raise ValueError("no glue")

            job = await book.push([*kinds])
            await Worker(queue, schedules=False).run(until_idle=True)
            return job.id

    def ids(self, parent: str) -> list[str]:
        (group,) = self._there.control.children(parent)
        return [child.job_id for child in group.children]


@pytest.fixture
def press(there: sync.JobQueue) -> Press:
    return Press(there)


def document(there: sync.JobQueue, *arguments: str) -> Any:
    return json.loads(cli(there, *arguments, "--json"))


def test_job_draws_steps_and_the_children_that_it_waits_for_as_a_tree(there: sync.JobQueue, press: Press) -> None:
    parent = press.parent("one", "fails", "later")
    one, fails, later = press.ids(parent)

    said = cli(there, "job", parent)

    assert re.search(r"(?m)^waits for +children of page: 2 of 3 have ended$", said)
    story = [line[22:] for line in said.splitlines()[said.splitlines().index(step_line(said)) :]]
    assert story[:5] == [
        'step bind: saved  "bound"',
        "children of page: 2 of 3 have ended",
        f'├ {one}  completed  "printed one"',
        f"├ {fails}  dead  ValueError: no paper",
        f"└ {later}  delayed, no worker",
    ]
    assert f"`redisjobs why {later} --queue {there.name}` says why that one has not ended" in said


def step_line(said: str) -> str:
    return next(line for line in said.splitlines() if "step bind" in line)


def test_job_of_a_dead_letter_has_its_children_below_their_step(there: sync.JobQueue, press: Press) -> None:
    press.fails = True
    parent = press.parent("one")

    said = cli(there, "job", parent)

    assert re.search(
        rf'step page: children have ended\n {{22}}└ {press.ids(parent)[0]}  completed  "printed', said
    )


def test_job_shows_twenty_children_of_a_step_and_how_many_more_there_are(
    there: sync.JobQueue, press: Press
) -> None:
    parent = press.parent(*["one"] * 24, "later")

    said = cli(there, "job", parent)

    assert said.count("printed one") == 20
    assert "└ and 5 more: --children lists all" in said


def test_the_document_of_a_job_has_its_children(there: sync.JobQueue, press: Press) -> None:
    parent = press.parent("one", "fails", "later")
    ids = press.ids(parent)

    found = document(there, "job", parent)

    (group,) = found["children"]
    assert (group["step"], group["total"], group["left"]) == ("page", 3, 1)
    assert [(child["index"], child["job_id"], child["state"], child["result"]) for child in group["children"]] == [
        (0, ids[0], "completed", "printed one"),
        (1, ids[1], "dead", None),
        (2, ids[2], "delayed", None),
    ]
    assert group["children"][1]["error"] == "ValueError: no paper"
    assert found["child_of"] is None
    assert document(there, "job", ids[2])["child_of"] == {"parent": parent, "step": "page", "index": 2}


def test_a_list_of_children_has_all_of_them(there: sync.JobQueue, press: Press) -> None:
    parent = press.parent(*["one"] * 24, "later")
    ids = press.ids(parent)

    listed = cli(there, "job", parent, "--children")
    documents = document(there, "job", parent, "--children")

    assert listed.startswith(f"children of {parent} on ")
    assert re.search(rf'(?m)^ ?page +23 +{ids[23]} +completed +"printed one"', listed)
    assert re.search(rf"(?m)^ ?page +24 +{ids[24]} +pending", listed)
    assert [(each["step"], each["job_id"]) for each in documents] == [("page", job_id) for job_id in ids]
    assert cli(there, "job", ids[24], "--children").startswith(f"no children of {ids[24]}")
    assert document(there, "job", ids[24], "--children") == []


def test_a_list_of_children_of_no_job_fails_and_excludes_watch(there: sync.JobQueue) -> None:
    with pytest.raises(CommandError, match="no job 'gone'") as gone:
        cli(there, "job", "gone", "--children")
    with pytest.raises(CommandError, match="give one of") as both:
        cli(there, "job", "gone", "--children", "--watch")

    assert [error.value.code for error in (gone, both)] == [1, 2]


def test_job_and_why_of_a_child_name_its_parent(there: sync.JobQueue, press: Press) -> None:
    parent = press.parent("later")
    (child,) = press.ids(parent)

    assert re.search(rf"(?m)^child of +page of {parent}$", cli(there, "job", child))
    assert re.search(rf"(?m)^child of +page of {parent}$", cli(there, "why", child))


def test_why_of_a_parent_names_the_children_that_have_not_ended(there: sync.JobQueue, press: Press) -> None:
    parent = press.parent("fails", "later")
    there.control.hold(press.ids(parent)[1])

    said = cli(there, "why", parent)

    assert (
        f"waits for children of page: 1 of 2 have ended. Not ended: {press.ids(parent)[1]} (delayed, held)" in said
    )
    assert re.search(rf"(?m)^children left +{press.ids(parent)[1]} \(delayed, held\)$", said)


def test_a_cancel_says_how_many_children_were_cancelled_with_it(there: sync.JobQueue, press: Press) -> None:
    first, second = press.parent("one", "later", "later"), press.parent("one", "later")
    childless = press.ids(second)[1]

    assert cli(there, "cancel", first).endswith(": cancelled; with it 2 children that had not ended\n")
    assert document(there, "cancel", childless) == {"job_id": childless, "result": "cancelled"}
    third = press.parent("later")
    assert document(there, "cancel", third) == {"job_id": third, "result": "cancelled", "children": 1}
    assert there.control.counts().delayed == 0


def test_a_requeued_child_whose_parent_had_gone_on_is_a_job_by_itself_and_the_answer_says_so(
    there: sync.JobQueue, press: Press
) -> None:
    press.fails = True
    first, second = press.ids(press.parent("fails", "fails"))

    said = cli(there, "dead", "requeue", first)
    found = document(there, "dead", "requeue", second)

    assert said.endswith(": a job by itself, as its parent had gone on\n")
    assert found == {"requeued": [second], "not_found": [], "failed": [], "independent": [second]}
    assert re.search(r"(?m)^\S+ \S+ +independent  its parent had gone on$", cli(there, "job", first))


def test_a_requeued_child_whose_parent_waits_is_its_child_still(there: sync.JobQueue, press: Press) -> None:
    parent = press.parent("fails", "later")
    child = press.ids(parent)[0]

    assert document(there, "dead", "requeue", child) == {"requeued": [child], "not_found": [], "failed": []}

    assert "children of page: 0 of 2 have ended" in cli(there, "job", parent)

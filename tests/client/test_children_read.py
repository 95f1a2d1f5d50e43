"""How an operator sees parents and their children: `children`, `get`, `why`, and a requeue of a child."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, cast

import pytest
from databases import ON_POSTGRES_TOO
from each_setting import store as store
from operating import done
from store import MemoryStore, RedisStore, Store

from redisjobs import JobContext, JobQueue, PushedJob, State, Worker, no_retry
from redisjobs.control import Cause, ChildOf
from redisjobs.events import JobsChanged
from redisjobs.model.children import ChildState
from redisjobs.model.steps import How
from redisjobs.model.transitions import Reply

if TYPE_CHECKING:
    from postgres_store import PostgresStore

pytestmark = [pytest.mark.anyio, ON_POSTGRES_TOO]


class Press:
    """A queue whose books run pages, which are printed, fail, wait for a signal, or are due in an hour."""

    def __init__(self, queue: JobQueue) -> None:
        self.queue = queue
        self.page = queue.job(name="page", retry=no_retry())(self._page)
        self.book = queue.job(name="book", retry=no_retry())(self._book)
        self.ends = "returns"

    async def _page(self, kind: str, context: JobContext) -> str:
        if kind == "waits":
            await context.wait_for("ink")
        if kind == "fails":
            raise ValueError("no paper")
        return f"printed {kind}"

    async def _book(self, kinds: list[str], context: JobContext) -> None:
        await context.step("bind", str)
        later = self.page.options(delay=3600)
        pages = [(later if kind == "later" else self.page).prepare(kind) for kind in kinds]
        await context.run_all(pages, on_failure="return", name="pages")
        if self.ends == "fails":
            raise ValueError("no glue")

    async def run(self) -> None:
        await Worker(self.queue, schedules=False).run(until_idle=True)

    async def parent(self, *kinds: str) -> PushedJob:
        """A book, and its pages as far as they go."""
        job = await self.book.push([*kinds])
        await self.run()
        return job

    async def ids(self, parent: PushedJob) -> list[str]:
        (group,) = await self.queue.control.children(parent)
        return [child.job_id for child in group.children]


@pytest.fixture
async def press(store: Store) -> AsyncIterator[Press]:
    async with JobQueue(store.driver, store.queue_name) as queue:
        yield Press(queue)


# Children


async def test_children_lists_how_each_child_has_ended(press: Press, face: Any) -> None:
    parent = await press.parent("one", "fails", "waits", "later")

    (group,) = await done(face.control.children(parent))

    assert (group.step, group.total, group.left, group.ended) == ("pages", 4, 2, "2 of 4 have ended")
    assert [(child.index, child.state, child.result, child.error) for child in group.children] == [
        (0, ChildState.COMPLETED, '"printed one"', ""),
        (1, ChildState.DEAD, "", "ValueError: no paper"),
        (2, ChildState.PENDING, "", ""),
        (3, ChildState.PENDING, "", ""),
    ]
    assert [child.error_type for child in group.children] == ["", "ValueError", "", ""]
    assert [child.job for child in group.children] == [None] * 4
    for child in group.children[1:]:
        assert await done(face.get(child.job_id)) is not None


async def test_children_looks_up_those_that_have_not_ended(press: Press, face: Any) -> None:
    parent = await press.parent("one", "waits", "later")
    await press.queue.control.hold((await press.ids(parent))[2])

    (group,) = await done(face.control.children(parent, look_up=True))

    assert [child.says for child in group.children] == ["completed", "suspended, no worker", "delayed, held"]
    assert [child.job and child.job.state for child in group.children] == [None, State.SUSPENDED, State.DELAYED]


async def test_children_lists_a_page_of_a_step_from_an_index_on(press: Press, face: Any) -> None:
    parent = await press.parent(*["one"] * 6, "waits")

    async def indexes(**options: Any) -> list[list[int]]:
        groups = await done(face.control.children(parent, **options))
        return [[child.index for child in group.children] for group in groups]

    assert await indexes(first=2, limit=3) == [[2, 3, 4]]
    assert await indexes(first=5) == [[5, 6]]
    assert await indexes(first=7) == [[]]
    assert await indexes(limit=0) == [[]]
    assert await indexes(step="pages", limit=1) == [[0]]
    assert await indexes(step="bind") == []
    for wrong in ({"first": -1}, {"limit": -1}, {"limit": True}):
        with pytest.raises(ValueError, match="give a whole number from 0 up"):
            await indexes(**wrong)


async def test_a_child_has_the_id_that_it_was_prepared_with(press: Press, face: Any) -> None:
    @press.queue.job
    async def two(context: JobContext) -> None:
        await context.run_all([press.page.prepare("one"), press.page.options(job_id="named").prepare("waits")])

    parent = await two.push()
    await press.run()

    (group,) = await done(face.control.children(parent))
    assert [child.job_id == "named" for child in group.children] == [False, True]


async def test_the_groups_come_in_the_order_of_their_steps(press: Press, face: Any) -> None:
    @press.queue.job
    async def shelf(context: JobContext) -> None:
        for name in ("z", "a", "z"):
            await context.run_all([press.page.prepare("one")], name=name)
        await context.run_all([press.page.prepare("waits")], name="b")

    parent = await shelf.push()
    await press.run()

    assert [group.step for group in await done(face.control.children(parent))] == ["z", "a", "z#2", "b"]
    assert [step.key for step in await done(face.control.steps(parent))] == ["z", "a", "z#2"]


async def test_a_step_with_children_says_so_and_has_no_value(press: Press, face: Any) -> None:
    press.ends = "fails"
    parent = await press.parent("one")

    step = (await done(face.control.steps(parent)))[-1]

    assert (step.key, step.how, step.value, step.says) == ("pages", How.CHILDREN, "", "children have ended")


async def test_a_job_that_has_ended_or_never_had_any_has_no_children_and_a_dead_letter_keeps_them(
    press: Press, face: Any
) -> None:
    ended = await press.parent("one")
    press.ends = "fails"
    dead = await press.parent("one")

    assert await done(face.control.children(ended)) == await done(face.control.children("none")) == []
    assert [group.ended for group in await done(face.control.children(dead))] == ["1 of 1 have ended"]


# One job


async def test_a_parent_says_for_which_children_it_waits_and_how_many_have_ended(press: Press, face: Any) -> None:
    parent = await press.parent("one", "fails", "waits")

    found = await done(face.get(parent))
    (listed,) = await done(face.control.jobs("suspended", name="book"))

    assert (found.state, found.wakes_at) == (State.SUSPENDED, None)
    assert str(found.waits_for) == "children of pages: 2 of 3 have ended"
    assert str(listed.waits_for) == "children of pages"


async def test_a_child_says_whose_child_it_is(press: Press, face: Any) -> None:
    parent = await press.parent("one", "waits")
    child_id = (await press.ids(parent))[1]

    found = await done(face.get(child_id))
    (listed,) = await done(face.control.jobs("suspended", name="page"))

    assert found.child_of == ChildOf(parent.id, "pages", 1)
    assert str(found.child_of) == f"pages of {parent.id}"
    assert listed.child_of == ChildOf(parent.id, "", 1)
    assert (await done(face.get(parent))).child_of is None


# Why


async def test_why_of_a_parent_names_the_children_that_hold_it_up_those_first_that_wont_end_soon(
    press: Press, face: Any
) -> None:
    parent = await press.parent("one", "fails", "later", "waits", "later")
    ids = await press.ids(parent)
    await press.queue.control.hold(ids[4])

    why = await done(face.control.why(parent))

    assert why.cause is Cause.SUSPENDED
    others = [
        f"{ids[4]} (delayed, held)",
        f"{ids[3]} (suspended, no worker)",
        f"{ids[2]} (delayed, no worker)",
    ]
    assert why.facts["children_left"] == others
    assert "waits for children of pages: 2 of 5 have ended. Not ended: " + ", ".join(others) in why.sentence
    assert f"`redisjobs why {ids[4]}" in why.advice
    assert ids[1] not in why.sentence  # a dead letter has ended


async def test_why_of_a_parent_with_many_children_names_some(press: Press, face: Any) -> None:
    parent = await press.parent(*["one"] * 3, *["later"] * 14)

    why = await done(face.control.why(parent))

    assert len(why.facts["children_left"]) == 11
    assert why.facts["children_left"][-1] == "and 4 more"
    assert ", and 11 more" in why.sentence


async def test_why_of_a_child_says_who_its_parent_is(press: Press, face: Any) -> None:
    parent = await press.parent("waits")

    why = await done(face.control.why((await press.ids(parent))[0]))

    assert why.facts["child_of"] == f"pages of {parent.id}"


async def test_why_of_a_parent_whose_child_is_gone_says_so(press: Press, store: Store) -> None:
    parent = await press.parent("later")
    (child_id,) = await press.ids(parent)
    lose(store, child_id)

    why = await press.queue.control.why(parent)

    assert why.facts["children_left"] == [f"{child_id} (not on the queue)"]


def lose(store: Store, job_id: str) -> None:
    """Remove a job as no call does."""
    if isinstance(store, RedisStore):
        place = store.admin.hget(f"{store.prefix}jobs", job_id)
        assert place is not None
        store.admin.hdel(f"{store.prefix}jobs", job_id)
        store.admin.hdel(f"{store.prefix}delayed", job_id)
        store.admin.delete(f"{store.prefix}due")
    elif isinstance(store, MemoryStore):
        store.memory.remove(store.memory.jobs[job_id])
    else:
        cast("PostgresStore", store).rows(
            "delete from redisjobs.jobs where queue = %s and id = %s returning id", job_id
        )


# Cancel and requeue


async def test_a_cancel_goes_down_to_the_children_that_have_not_ended(press: Press, face: Any) -> None:
    parent = await press.parent("one", "later", "waits")
    ids = await press.ids(parent)

    assert await done(face.cancel(parent)) is Reply.CANCELLED

    assert [await done(face.get(job_id)) for job_id in [parent, *ids]] == [None] * 4
    assert await done(face.control.children(parent)) == []


async def test_a_child_that_is_requeued_while_its_parent_waits_is_its_child_still(press: Press, face: Any) -> None:
    parent = await press.parent("fails", "later")
    child_id = (await press.ids(parent))[0]

    assert await done(face.control.requeue(child_id)) is Reply.OK

    (group,) = await done(face.control.children(parent))
    assert group.left == 2
    found = await done(face.get(child_id))
    assert found.child_of == ChildOf(parent.id, "pages", 0)
    assert [event.what for event in found.history] == ["died", "requeued"]


async def test_a_child_that_is_requeued_after_its_parent_went_on_is_a_job_by_itself_and_says_so(
    press: Press, face: Any
) -> None:
    press.ends = "fails"
    parent = await press.parent("fails")
    child_id = (await press.ids(parent))[0]
    changed: list[JobsChanged] = []
    face.events.subscribe(JobsChanged, changed.append)

    assert await done(face.control.requeue(child_id)) is Reply.INDEPENDENT

    assert [event.jobs for event in changed] == [[(child_id, Reply.INDEPENDENT)]]
    found = await done(face.get(child_id))
    assert (found.child_of, found.parent) == (None, parent.id)
    assert [event.what for event in found.history] == ["died", "requeued", "independent"]
    assert found.history[-1].note == "its parent had gone on"
    await press.run()
    (group,) = await done(face.control.children(parent))
    assert group.children[0].state is ChildState.DEAD  # as its parent has read it


async def test_all_dead_letters_are_requeued_with_such_children_among_them(press: Press, face: Any) -> None:
    press.ends = "fails"
    await press.parent("fails", "fails")

    assert await done(face.control.requeue_all(name="page")) == 2

    found = await done(face.control.jobs("ready", name="page"))
    assert [[event.what for event in job.history][-1] for job in found] == ["independent"] * 2

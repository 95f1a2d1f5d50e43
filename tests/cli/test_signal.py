"""The command line about jobs that save steps and wait: a signal, the list of steps, a requeue from a step."""

import json
import re

import anyio
import pytest
from commands import cli

from redisjobs import JobContext, JobQueue, State, no_retry, sync
from redisjobs.cli.errors import CommandError
from redisjobs.model.transitions import Reply
from redisjobs.worker.worker import Worker


class Shop:
    """Pushes an order by code, and runs it in a worker. It charges, waits for a person, and fails."""

    def __init__(self, there: sync.JobQueue) -> None:
        self._there = there
        self.charged = 0

    def run(self, *, push: bool = True) -> str:
        """Push an order, and run what is ready; return the id of the order."""
        return anyio.run(self._run, push)

    async def _run(self, push: bool) -> str:
        async with JobQueue(self._there.driver.where, self._there.name) as queue:

            @queue.job(retry=no_retry())
            async def order(number: int, context: JobContext) -> None:
                await context.step("charge", self._charge)
                await context.wait_for("approved", timeout=3600)
                raise ValueError("no mail")

            job = await order.push(7) if push else None
            await Worker(queue, schedules=False).run(until_idle=True)
            return "" if job is None else job.id

    def _charge(self) -> dict[str, int]:
        self.charged += 1
        return {"charge": self.charged}

    def dead(self) -> str:
        job_id = self.run()
        self._there.signal(job_id, "approved", "ann")
        self.run(push=False)
        return job_id


@pytest.fixture
def shop(there: sync.JobQueue) -> Shop:
    return Shop(there)


def test_a_signal_is_taken_by_a_job_that_waits_for_it(there: sync.JobQueue, shop: Shop) -> None:
    job_id = shop.run()

    said = cli(there, "signal", job_id, "approved", '{"by": "ann"}')

    assert said.startswith(f"{job_id} on ")
    assert said.endswith(": taken: the job goes on\n")
    assert there.control.steps(job_id)[-1].value == '{"by":"ann"}'


def test_a_signal_that_comes_early_is_kept_and_the_document_says_so(there: sync.JobQueue, shop: Shop) -> None:
    job_id = shop.run()

    said = json.loads(cli(there, "signal", job_id, "paid", "--json"))

    assert said == {"job_id": job_id, "signal": "paid", "result": "kept"}
    assert there.signal(job_id, "paid") is Reply.EXISTS


def test_a_signal_that_is_there_already_or_comes_too_late_fails(there: sync.JobQueue, shop: Shop) -> None:
    job_id = shop.run()
    cli(there, "signal", job_id, "paid")

    with pytest.raises(CommandError, match=r"keeps an earlier signal .* It waits for signal approved") as twice:
        cli(there, "signal", job_id, "paid")
    cli(there, "signal", job_id, "approved")
    shop.run(push=False)
    with pytest.raises(CommandError, match=r"too late: job .* is a dead letter") as dead:
        cli(there, "signal", job_id, "approved")
    with pytest.raises(CommandError, match="too late: no job 'gone'") as gone:
        cli(there, "signal", "gone", "approved")

    assert [error.value.code for error in (twice, dead, gone)] == [1, 1, 1]


@pytest.mark.parametrize(
    ("typed", "said"),
    [(["approved", "ann"], "VALUE is not JSON.*quote a text"), (["a b"], "can't name a signal")],
)
def test_a_signal_that_can_be_none_is_wrong_usage(there: sync.JobQueue, typed: list[str], said: str) -> None:
    with pytest.raises(CommandError, match=said) as error:
        cli(there, "signal", "any", *typed)

    assert error.value.code == 2


def test_job_says_what_it_waits_for_and_lists_its_steps(there: sync.JobQueue, shop: Shop) -> None:
    job_id = shop.run()

    said = cli(there, "job", job_id)

    assert re.search(r"(?m)^waits for +signal approved$", said)
    assert re.search(r"(?m)^suspended at \d{4}-\S+ \S+Z$", said)
    assert re.search(r'(?m)^\S+ \S+ +step charge: saved  {"charge":1}$', said)
    assert f"`redisjobs signal {job_id} approved VALUE" in said
    document = json.loads(cli(there, "job", job_id, "--json"))
    assert document["state"] == "suspended"
    assert document["waits_for"] == {"what": "signal", "key": "approved", "total": None, "left": None}
    assert [(step["key"], step["how"], step["value"]) for step in document["steps"]] == [
        ("charge", "done", {"charge": 1})
    ]


def test_job_of_a_dead_letter_lists_its_steps(there: sync.JobQueue, shop: Shop) -> None:
    said = cli(there, "job", shop.dead())

    assert 'step approved: signal came  "ann"' in said


def test_jobs_lists_and_stats_and_queues_count_suspended_jobs(there: sync.JobQueue, shop: Shop) -> None:
    job_id = shop.run()

    listed = cli(there, "jobs", "--state", "suspended")
    assert re.search(rf"{job_id} .* signal approved ", listed)
    assert re.search(r"(?m)^ *suspended +1 *$", cli(there, "stats"))
    (document,) = json.loads(cli(there, "queues", "--json"))
    assert document["suspended"] == 1


def test_suspended_jobs_are_held_and_cancelled_all_at_once(there: sync.JobQueue, shop: Shop) -> None:
    shop.run()

    assert "held 1 suspended job" in cli(there, "hold", "--state", "suspended")
    assert "unheld 1 suspended job" in cli(there, "unhold", "--state", "suspended")
    assert "cancelled 1 suspended job" in cli(there, "cancel", "--state", "suspended")
    assert there.control.counts().suspended == 0


@pytest.mark.parametrize(("option", "charged"), [([], 1), (["--from-step", "charge"], 2), (["--from-start"], 2)])
def test_a_dead_letter_is_requeued_from_a_step_or_the_start(
    there: sync.JobQueue, shop: Shop, option: list[str], charged: int
) -> None:
    job_id = shop.dead()

    assert "requeued" in cli(there, "dead", "requeue", job_id, *option)

    shop.run(push=False)
    assert shop.charged == charged


def test_a_step_that_was_not_saved_is_wrong_usage_and_names_those_that_were(
    there: sync.JobQueue, shop: Shop
) -> None:
    job_id = shop.dead()

    with pytest.raises(CommandError, match="no step 'mail'; it has 'charge', 'approved'") as error:
        cli(there, "dead", "requeue", job_id, "--from-step", "mail")

    assert error.value.code == 2
    found = there.get(job_id)
    assert found is not None
    assert found.state is State.DEAD


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--all", "--from-start"], "for jobs that are named"),
        (["--all", "--from-step", "x"], "for jobs that are named"),
        (["any", "--from-start", "--from-step", "x"], "and not both"),
    ],
)
def test_a_requeue_from_a_step_is_for_named_jobs(there: sync.JobQueue, typed: list[str], said: str) -> None:
    with pytest.raises(CommandError, match=said) as error:
        cli(there, "dead", "requeue", *typed)

    assert error.value.code == 2

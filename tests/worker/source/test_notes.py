"""What running jobs write, in exchanges with the outcomes of others."""

import pytest
from each_setting import store as store
from store import dispatch

from redisjobs.model.outcome import Interrupted, Outcome, Raised
from redisjobs.model.steps import GetSteps
from redisjobs.model.transitions import MOST_JOBS, NewJob, Reply, SaveStep
from redisjobs.queue import JobQueue
from redisjobs.worker.running.execution import Execution
from redisjobs.worker.source.source import Source

pytestmark = pytest.mark.anyio


async def held(queue: JobQueue, source: Source) -> Execution:
    """A job that the source holds, and that no slot runs."""
    await queue.driver.push([NewJob("a", ["name", "work", "parameters", "{}"])], repeated=False)
    dispatch(source, (await source.member.consumer.exchange([], 1)).leases)
    (run,) = source.leases
    return run


@pytest.mark.parametrize("outcome", [Interrupted(), Raised(LookupError())])
async def test_a_step_that_was_saved_before_its_run_ended_is_kept(
    queue: JobQueue, source: Source, outcome: Outcome
) -> None:
    run, replies = await held(queue, source), list[Reply]()
    source.settler.write(run, SaveStep("charge", 1, b"5"), lambda reply, _: replies.append(reply))
    source.settler.ran(run, outcome)

    await source.batcher.carry(source.exchanger.next_batch())

    (steps,) = await queue.driver.read(GetSteps(["a"]))
    assert steps is not None
    assert (replies, {*steps.saved}, len(source.leases)) == ([Reply.OK], {"charge"}, 0)


async def test_more_notes_than_an_exchange_takes_go_in_several(queue: JobQueue, source: Source) -> None:
    run, replies, most = await held(queue, source), list[Reply](), MOST_JOBS + 100
    for number in range(most):
        source.settler.write(run, SaveStep(f"page-{number}", number, b"5"), lambda reply, _: replies.append(reply))
    source.settler.ran(run, Interrupted())

    while source.leases.unsettled:
        await source.batcher.carry(source.exchanger.next_batch())

    (steps,) = await queue.driver.read(GetSteps(["a"]))
    assert steps is not None
    assert (replies, len(steps.saved), len(source.leases)) == ([Reply.OK] * most, most, 0)

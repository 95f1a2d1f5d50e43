"""Steps that the tests of limits share."""

from typing import Any

from redisjobs.model.changes import Hold, Pause, Resume, SetLimit, Tidy, Unhold, Unpark
from redisjobs.model.driver import Consumer, Driver
from redisjobs.model.queries import FindLimits, LimitsFound
from redisjobs.model.transitions import Lease, NewJob, Reply, Settlement

LIMITS = (FindLimits, SetLimit)
PAUSES = (Hold, Pause, Resume, Unhold, Unpark)


def limited(job_id: str, key: str = "", name: str = "Limited", **options: Any) -> NewJob:
    fields = ["name", name, "parameters", "{}", *(["limit_key", key] if key else [])]
    return NewJob(job_id, fields, **options)


async def push(driver: Driver, *jobs: NewJob | str) -> None:
    made = [job if isinstance(job, NewJob) else limited(job) for job in jobs]
    for start in range(0, len(made), 500):
        await driver.push(made[start : start + 500], repeated=False)


async def limit(driver: Driver, text: str, name: str = "Limited") -> None:
    """Set a limit, in as many steps as it takes."""
    after = await driver.change(SetLimit(name, text))
    while after:
        after = await driver.change(SetLimit(name, text, after))


async def claim(consumer: Consumer, *settlements: tuple[Lease, Settlement], idle: bool = False) -> list[Lease]:
    """Settle some jobs, and claim all that can start."""
    answer = await consumer.exchange(list(settlements), 50, idle=idle)
    assert {*answer.replies} <= {Reply.OK, Reply.CANCELLED}
    leases = list(answer.leases)
    while answer.more or answer.due_in == 0:
        answer = await consumer.exchange([], 50, idle=idle)
        leases += answer.leases
    return leases


def job_ids(leases: list[Lease]) -> list[str]:
    return [lease.job_id for lease in leases]


async def all_limits(driver: Driver) -> LimitsFound:
    """Return limits, lines and running jobs, from as many steps as it takes."""
    step = await driver.read(FindLimits())
    limits, lines, running = dict(step.limits), [*step.lines], [*step.running]
    while step.after:
        step = await driver.read(FindLimits(step.after))
        lines += step.lines
        running += step.running
    return LimitsFound(limits, lines, sorted(running))


async def tidy(driver: Driver) -> None:
    """Tidy the queue, in as many steps as it takes."""
    after = (await driver.change(Tidy())).after
    while after:
        after = (await driver.change(Tidy(after))).after


async def turns(driver: Driver) -> list[int | None]:
    """Return when the next job of each line may start, in ms."""
    return [at_ms for _, _, at_ms in (await all_limits(driver)).lines]

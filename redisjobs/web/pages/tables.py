"""The views of schedules, workers and limits."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from redisjobs.web.board.visit import ViewAnswer, Visit, part

_UPCOMING = 3
_DRAWN = 20  # schedules whose past is drawn
_PAST = 3 * 86_400
_PER_HOUR = 6  # intervals


@dataclass(frozen=True, slots=True)
class Past:
    """How many jobs of a schedule were done in each hour of 3 days, and how many died."""

    done: Sequence[int]
    dead: int


async def schedules(visit: Visit) -> ViewAnswer:
    """Show the schedules, with their next slots."""
    found = await visit.board.schedules()
    rows = [
        (info, [*info.upcoming(_UPCOMING)], await _past(visit, info.job_name) if at < _DRAWN else None)
        for at, info in enumerate(found)
    ]
    return ViewAnswer("schedules", "Schedules", {"rows": rows}, view="schedules")


async def _past(visit: Visit, name: str) -> Past | None:
    """Return what happened to the jobs of a schedule, hour by hour; None if nothing is known."""
    if not name:
        return None
    found = await part(visit.board.statistics(_PAST, name, keep=30), [], [])
    hours = [found[at : at + _PER_HOUR] for at in range(0, len(found), _PER_HOUR)]
    done, dead = ([sum(getattr(each, what) for each in hour) for hour in hours] for what in ("completed", "dead"))
    return Past(done, sum(dead)) if any(done) or any(dead) else None


async def workers(visit: Visit) -> ViewAnswer:
    """Show the workers, with what each can run."""
    found = await visit.board.workers()
    alive = [worker for worker in found if worker.lease > 0]
    hosts = Counter(worker.host for worker in alive if worker.host)
    data = {
        "workers": found,
        "hosts": sorted(host for host, number in hosts.items() if number > 1),
        "alive": len(alive),
        "slots": sum(worker.slots for worker in alive),
        "running": sum(worker.running for worker in alive),
    }
    return ViewAnswer("workers", "Workers", data, view="workers")


async def limits(visit: Visit) -> ViewAnswer:
    """Show the limits, with the jobs that run and wait under each."""
    return ViewAnswer("limits", "Limits", {"limits": await visit.board.limits()}, view="limits")

"""The views of schedules, workers and limits."""

from redisjobs.web.board.visit import Page, Visit

_UPCOMING = 3


async def schedules(visit: Visit) -> Page:
    """Show the schedules, with their next slots."""
    found = await visit.board.schedules()
    rows = [(info, [*info.upcoming(_UPCOMING)]) for info in found]
    return Page("schedules", "Schedules", {"rows": rows}, view="schedules")


async def workers(visit: Visit) -> Page:
    """Show the workers, with what each can run."""
    found = await visit.board.workers()
    alive = [worker for worker in found if worker.lease > 0]
    data = {
        "workers": found,
        "alive": len(alive),
        "slots": sum(worker.slots for worker in alive),
        "running": sum(worker.running for worker in alive),
    }
    return Page("workers", "Workers", data, view="workers")


async def limits(visit: Visit) -> Page:
    """Show the limits, with the jobs that run and wait under each."""
    return Page("limits", "Limits", {"limits": await visit.board.limits()}, view="limits")

"""Lists of jobs by state, with filters, in pages that a cursor connects."""

from redisjobs.errors import DriverError
from redisjobs.model.info import JobInfo
from redisjobs.model.job import State
from redisjobs.web.board.bulk import KINDS
from redisjobs.web.board.filters import AGES, Filters
from redisjobs.web.board.visit import Missing, ViewAnswer, Visit

LISTED = 25
"""The jobs on a page."""


async def jobs(visit: Visit) -> ViewAnswer:
    """Show the jobs of one state."""
    filters = Filters.of(visit.query)
    counts = await visit.board.counts()
    totals = {state: counts.of(state) for state in State}
    try:
        page = await visit.board.jobs(filters.state, filters.options, filters.after, LISTED)
    except DriverError as error:
        if filters.after and type(error) is DriverError:  # the script can't read the cursor
            raise Missing("No page of this list begins here. Go back to its first page.") from error
        raise
    kinds = [
        (word, kind) for word, kind in KINDS.items() if filters.state in kind.states and kind.verb in visit.verbs
    ]
    data = {
        "by_id": await _by_id(visit, filters),
        "filters": filters,
        "totals": totals,
        "listed": page,
        "kinds": kinds,
        "ages": AGES,
        "paused": await visit.board.pauses(),
    }
    return ViewAnswer(
        "jobs", filters.state.capitalize(), data, view="failures" if filters.state is State.DEAD else "jobs"
    )


async def _by_id(visit: Visit, filters: Filters) -> JobInfo | None:
    """Return the job whose id was typed as the text to find."""
    return (
        await visit.board.job(filters.chosen["text"]) if "text" in filters.chosen and not filters.after else None
    )

"""One job name: its plots, its jobs, and its pause."""

from redisjobs.base.arguments import is_text
from redisjobs.web.board.visit import Missing, ViewAnswer, Visit
from redisjobs.web.pages.trends import RANGES, trends


async def job_name(visit: Visit) -> ViewAnswer:
    """Show what happened to the jobs of one name."""
    named = visit.query.get("name", "")
    if not is_text(named, r"[^\s\x00-\x1f]{1,200}"):
        raise Missing("There is no such job name.")
    chosen, drawn = await trends(visit, named)
    pauses, workers = await visit.board.pauses(), await visit.board.workers()
    is_known = named in visit.board.queue.definitions or any(
        named in worker.names or worker.has_more_names for worker in workers
    )
    data = {
        "name": named,
        "since": pauses.names.get(named),
        "known": is_known or bool(drawn),
        "range": chosen,
        "ranges": RANGES,
        "trends": drawn,
    }
    return ViewAnswer("name", named, data, view="overview")

"""Failures: the dead letters by cause."""

from redisjobs.web.board.visit import ViewAnswer, Visit


async def failures(visit: Visit) -> ViewAnswer:
    """Show the dead letters by cause, the most frequent first."""
    groups, counts = await visit.board.groups(), await visit.board.counts()
    return ViewAnswer("failures", "Failures", {"groups": groups, "dead": counts.dead}, view="failures")

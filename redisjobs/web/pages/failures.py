"""Failures: the dead letters by cause."""

from redisjobs.web.board.visit import Page, Visit


async def failures(visit: Visit) -> Page:
    """Show the dead letters by cause, the most frequent first."""
    groups, counts = await visit.board.groups(), await visit.board.counts()
    return Page("failures", "Failures", {"groups": groups, "dead": counts.dead}, view="failures")

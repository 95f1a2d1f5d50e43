"""Failures: the dead letters by cause."""

from redisjobs.web.board.access import Verb
from redisjobs.web.board.visit import Page, Visit


async def failures(visit: Visit) -> Page:
    """Show the dead letters by cause, the most frequent first."""
    groups, counts = await visit.board.groups(), await visit.board.counts()
    data = {"groups": groups, "dead": counts.dead, "verbs": {*visit.verbs} & {Verb.RETRY, Verb.DELETE}}
    return Page("failures", "Failures", data, view="failures")

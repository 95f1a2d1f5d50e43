"""The pages with a form: push a job, edit and retry, confirm, and an act on many jobs."""

from redisjobs.model.job import Priority
from redisjobs.web.board.access import Verb
from redisjobs.web.board.bulk import KINDS, Bulk
from redisjobs.web.board.filters import id_from
from redisjobs.web.board.visit import Missing, Page, Visit
from redisjobs.web.show.format import json_lines


async def push(visit: Visit) -> Page:
    """Show the form to push a job."""
    if Verb.PUSH not in visit.verbs:
        raise Missing("There is no such page.")
    return push_form(visit, {"name": visit.query.get("name", "")})


def push_form(visit: Visit, given: dict[str, str], error: str = "") -> Page:
    """Return the form to push a job, with what was given."""
    names = sorted(visit.board.queue.definitions)
    data = {"names": names, "given": given, "error": error, "priorities": [*Priority]}
    return Page("push", "Push a job", data, 422 if error else 200, "push", is_live=False)


async def edit(visit: Visit) -> Page:
    """Show the form to retry a job with other parameters."""
    job_id = id_from(visit.query.get("id", ""))
    if Verb.EDIT not in visit.verbs:
        raise Missing("There is no such page.")
    return await edit_form(visit, job_id)


async def edit_form(visit: Visit, job_id: str, given: str | None = None, error: str = "") -> Page:
    """Return the form to retry a job with other parameters.

    If a part of the parameters is hidden from the viewer, the form begins empty: what it shows is what is stored.
    """
    stored = await visit.board.queue.get(job_id) if job_id else None
    if stored is None:
        raise Missing("There is no job with this id.")
    shown = visit.board.redaction.job(stored)
    is_hidden = shown.parameters != stored.parameters
    text = given if given is not None else "" if is_hidden else json_lines(stored.parameters)
    known = stored.name in visit.board.queue.definitions
    data = {"job": shown, "text": text, "is_hidden": is_hidden, "is_known": known, "error": error}
    return Page("edit", f"Edit {shown.name}", data, 422 if error else 200, "failures", is_live=False)


async def bulk(visit: Visit) -> Page:
    """Show an act on many jobs: its count, its confirmation, its progress."""
    found = visit.bulks.get(visit.query.get("id", ""))
    if found is None:
        raise Missing(
            "This process of the web application does not know this act: it was restarted, or it has several "
            "processes. The queue itself shows what was done."
        )
    return bulk_page(visit, found)


def bulk_page(visit: Visit, found: Bulk, error: str = "") -> Page:
    """Return the page of an act on many jobs."""
    data = {"bulk": found, "kind": KINDS[found.word], "error": error, "may": KINDS[found.word].verb in visit.verbs}
    return Page("bulk", f"{KINDS[found.word].label} many jobs", data, 422 if error else 200, "", found.is_active)

"""The pages with a form: push a job, edit and retry, confirm, and an act on many jobs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redisjobs.model.codec import new_job_id
from redisjobs.model.job import JobDefinition, Priority
from redisjobs.web.board.access import Verb
from redisjobs.web.board.bulk import KINDS, Bulk
from redisjobs.web.board.filters import id_from
from redisjobs.web.board.visit import Missing, ViewAnswer, Visit
from redisjobs.web.show.format import json_lines


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a job's parameters: its name, what it takes in words, and whether it has no default."""

    name: str
    kind: str
    is_required: bool


async def push(visit: Visit) -> ViewAnswer:
    """Show the form to push a job."""
    if Verb.PUSH not in visit.verbs:
        raise Missing("There is no such page.")
    return push_form(visit, {"name": visit.query.get("name", "")})


def push_form(visit: Visit, given: dict[str, str], error: str = "") -> ViewAnswer:
    """Return the form to push a job, with what was given; without a name, the names to choose from."""
    definitions = visit.board.queue.definitions
    name = given.get("name", "")
    fields = fields_of(definitions[name]) if name in definitions else []
    data = {
        "job_id": given.get("id") or new_job_id(),  # a form that is sent twice pushes one job
        "names": sorted(definitions),
        "name": name if name in definitions else "",
        "fields": fields,
        "text": given.get("parameters") or skeleton(fields),
        "given": given,
        "error": error,
        "priorities": [*Priority],
    }
    return ViewAnswer("push", "Push a job", data, 422 if error else 200, "push", is_live=False)


_BLANKS = {"string": '""', "integer": "0", "number": "0", "boolean": "false", "array": "[]", "object": "{}"}


def fields_of(definition: JobDefinition[Any]) -> list[Field]:
    """Return the fields of a job's parameters; none if their type has no JSON schema."""
    try:
        schema = definition.name.adapter.json_schema()
        required = schema.get("required", [])
        return [Field(name, _kind(found), name in required) for name, found in schema["properties"].items()]
    except Exception:  # of a type that JSON schema can't describe; the form works without
        return []


def _kind(schema: Any) -> str:
    """Return what a field takes, in a few words: `string`, `integer or null`, `"a" or "b"`."""
    if "enum" in schema:
        return " or ".join(f'"{value}"' if isinstance(value, str) else str(value) for value in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(map(_kind, schema["anyOf"]))
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    return str(schema.get("format") or schema.get("type") or "object")


def skeleton(fields: Sequence[Field]) -> str:
    """Return JSON with the required fields, to fill in."""
    lines = [
        f'  "{each.name}": {_BLANKS.get(each.kind.split(" ")[0], "null")}' for each in fields if each.is_required
    ]
    return "{\n" + ",\n".join(lines) + "\n}" if lines else "{}"


async def edit(visit: Visit) -> ViewAnswer:
    """Show the form to retry a job with other parameters."""
    job_id = id_from(visit.query.get("id", ""))
    if Verb.EDIT not in visit.verbs:
        raise Missing("There is no such page.")
    return await edit_form(visit, job_id)


async def edit_form(visit: Visit, job_id: str, given: str | None = None, error: str = "") -> ViewAnswer:
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
    return ViewAnswer("edit", f"Edit {shown.name}", data, 422 if error else 200, "failures", is_live=False)


async def bulk(visit: Visit) -> ViewAnswer:
    """Show an act on many jobs: its count, its confirmation, its progress."""
    found = visit.bulks.get(visit.query.get("id", ""))
    if found is None:
        raise Missing(
            "This process of the web application does not know this act: it was restarted, or it has several "
            "processes. The queue itself shows what was done."
        )
    return bulk_page(visit, found)


def bulk_page(visit: Visit, found: Bulk, error: str = "") -> ViewAnswer:
    """Return the page of an act on many jobs."""
    data = {"bulk": found, "kind": KINDS[found.word], "error": error, "may": KINDS[found.word].verb in visit.verbs}
    return ViewAnswer(
        "bulk", f"{KINDS[found.word].label} many jobs", data, 422 if error else 200, "", found.is_active
    )

"""The commands on schedules."""

from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from typing import Annotated, Any

import typer

from redisjobs.base.visible import visible
from redisjobs.cli import show
from redisjobs.cli.errors import Failure
from redisjobs.cli.output import say
from redisjobs.cli.target import Json, QueueName, Url, named, where
from redisjobs.errors import RegistrationError, UnknownSchedule
from redisjobs.model.stored import ScheduleInfo
from redisjobs.sync import JobQueue

app = typer.Typer(help="Schedules: jobs that are pushed again and again, and when.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The schedule's name.")]

_COLUMNS = ("name", "rule", "job", "state", "last", "next", "missed")
_UPCOMING = 5  # next slots to show


@app.command("list")
def list_schedules(queue: QueueName = "default", url: Url = None, as_json: Json = False) -> None:
    """List schedules, both declared in code and put at run time."""
    with named(queue, url) as there:
        found = there.schedules.list()
    none = f"no schedules on {where(there)}; a worker declares those of its code when it starts"
    rows, documents = map(_row, found), map(_document, found)
    show.listing(documents, as_json, _COLUMNS, rows, f"schedules of {where(there)}", none)


@app.command("show")
def show_schedule(name: Name, queue: QueueName = "default", url: Url = None, as_json: Json = False) -> None:
    """Show one schedule, with its next slots in UTC, in the schedule's zone and in this machine's zone."""
    with named(queue, url) as there:
        info = there.schedules.get(name)
    if info is None:
        raise _unknown(name, there)
    if as_json:
        show.document(_document(info))
    else:
        _page(info)


@app.command()
def run(name: Name, queue: QueueName = "default", url: Url = None, as_json: Json = False) -> None:
    """Push a schedule's job now, even if the schedule is paused. Its slots don't change."""
    with named(queue, url) as there:
        try:
            job = there.schedules.run_now(name)
        except UnknownSchedule:
            raise _unknown(name, there, "; nothing was pushed") from None
    said = f"{visible(job.id)} {'added to' if job.added else 'already on'} {where(there)}"
    show.done(said, {"name": name, "job_id": job.id, "added": job.added}, as_json)


@app.command()
def pause(name: Name, queue: QueueName = "default", url: Url = None, as_json: Json = False) -> None:
    """Stop a schedule from firing until you resume it, even after restarts and new releases."""
    with named(queue, url) as there:
        _act(there.schedules.pause, name, "paused", there, as_json)


@app.command()
def resume(name: Name, queue: QueueName = "default", url: Url = None, as_json: Json = False) -> None:
    """Let a paused schedule fire its slots from now on."""
    with named(queue, url) as there:
        _act(there.schedules.resume, name, "resumed", there, as_json)


@app.command()
def remove(name: Name, queue: QueueName = "default", url: Url = None, as_json: Json = False) -> None:
    """Remove a schedule, unless a running release declares it."""
    with named(queue, url) as there:
        _act(there.schedules.remove, name, "removed", there, as_json)


def _act(act: Callable[[str], bool], name: str, done: str, there: JobQueue, as_json: bool) -> None:
    try:
        was_there = act(name)
    except RegistrationError as error:
        raise Failure(f"{error} ({where(there)})") from error
    if not was_there:
        raise _unknown(name, there)
    show.done(f"{done} {visible(name)} on {where(there)}", {"name": name, "result": done}, as_json)


def _unknown(name: str, there: JobQueue, so: str = "") -> Failure:
    return Failure(f"no schedule {name!r} on {where(there)}{so}")


def _row(info: ScheduleInfo) -> list[Any]:
    rule = str(info.rule) if info.rule else ""
    return [info.name, rule, info.job_name, info.status, info.last_slot, info.next_slot, info.missed]


def _document(info: ScheduleInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "rule": info.rule.text if info.rule else None,
        "words": str(info.rule) if info.rule else None,
        "job_name": info.job_name,
        "parameters": show.json_value(info.parameters),
        "accuracy": info.accuracy,
        "state": info.status.partition(":")[0],
        "declared": info.declared,
        "last_slot": info.last_slot,
        "next_slots": list(info.upcoming(_UPCOMING)),
        "missed": info.missed,
        "error": info.error,
    }


def _page(info: ScheduleInfo) -> None:
    facts = {
        "name": info.name,
        "rule": f"{info.rule.text} ({info.rule})" if info.rule else "",
        "job": info.job_name,
        "parameters": info.parameters,
        "accuracy": info.accuracy,
        "state": info.status,
        "declared": "in code" if info.declared else "at run time",
        "missed": str(info.missed),
        "last slot": _times(info.last_slot),
    }
    for what, value in facts.items():
        if value:
            say(f"{what:<12}{visible(value)}")
    for number, slot in enumerate(info.upcoming(_UPCOMING)):
        say(f"{'next slots' if not number else '':<12}{_times(slot)}")


def _times(slot: datetime | None) -> str:
    """Return a slot in UTC, in its rule's zone and in this machine's zone, without equal times."""
    if slot is None:
        return ""
    zones: list[tzinfo | None] = [UTC, slot.tzinfo, None]
    return " = ".join(dict.fromkeys(slot.astimezone(zone).isoformat(" ", "seconds") for zone in zones))

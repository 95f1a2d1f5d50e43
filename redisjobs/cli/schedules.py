"""Commands on schedules: what a queue pushes again and again, and when."""

from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from typing import Annotated, Any

import typer

from redisjobs.base.visible import visible
from redisjobs.cli import show
from redisjobs.cli.errors import Failure
from redisjobs.cli.output import say, telling
from redisjobs.cli.target import Json, QueueName, Url, named, where
from redisjobs.errors import RegistrationError, UnknownSchedule
from redisjobs.model.stored import ScheduleInfo
from redisjobs.sync import JobQueue

app = typer.Typer(help="Schedules: what is pushed again and again, and when.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The schedule's name.")]

_UPCOMING = 5  # slots that are shown


@app.command("list")
def list_schedules(queue: QueueName = "default", url: Url = None, as_json: Json = False) -> None:
    """List schedules: those that code declares, and those that were put at run time."""
    with named(queue, url) as there:
        found = there.schedules.list()
    if as_json:
        show.document([_document(info) for info in found])
    elif not found:
        say(f"no schedules on {where(there)}; a worker declares those of its code when it starts")
    else:
        columns = ("name", "rule", "job", "state", "last", "next", "missed")
        show.table(columns, map(_row, found), f"schedules of {where(there)}")


@app.command("show")
def show_schedule(name: Name, queue: QueueName = "default", url: Url = None, as_json: Json = False) -> None:
    """Show one schedule, and its next slots, in UTC, in its own zone and in this machine's."""
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
    """Push a schedule's job now, whatever its slots; also where it is paused."""
    with named(queue, url) as there:
        try:
            job = there.schedules.run_now(name)
        except UnknownSchedule:
            raise _unknown(name, there, "; nothing was pushed") from None
    with telling(f"pushed {job}"):
        if as_json:
            show.document({"name": name, "job_id": job.id, "added": job.added})
        else:
            say(f"{visible(job.id)} {'added to' if job.added else 'already on'} {where(there)}")


@app.command()
def pause(name: Name, queue: QueueName = "default", url: Url = None, as_json: Json = False) -> None:
    """Let a schedule fire nothing, over restarts and releases, until it is resumed."""
    with named(queue, url) as there:
        _act(there.schedules.pause, name, "paused", there, as_json)


@app.command()
def resume(name: Name, queue: QueueName = "default", url: Url = None, as_json: Json = False) -> None:
    """Let a paused schedule fire again, from now on."""
    with named(queue, url) as there:
        _act(there.schedules.resume, name, "resumed", there, as_json)


@app.command()
def remove(name: Name, queue: QueueName = "default", url: Url = None, as_json: Json = False) -> None:
    """Forget a schedule, unless a release that is running declares it."""
    with named(queue, url) as there:
        _act(there.schedules.remove, name, "removed", there, as_json)


def _act(act: Callable[[str], bool], name: str, done: str, there: JobQueue, as_json: bool) -> None:
    try:
        was_there = act(name)
    except RegistrationError as error:
        raise Failure(f"{error} ({where(there)})") from error
    if not was_there:
        raise _unknown(name, there)
    with telling(f"{done} {name!r}"):
        if as_json:
            show.document({"name": name, "result": done})
        else:
            say(f"{done} {visible(name)} on {where(there)}")


def _unknown(name: str, there: JobQueue, so: str = "") -> Failure:
    return Failure(f"no schedule {name!r} on {where(there)}{so}")


def _state(info: ScheduleInfo) -> str:
    """What becomes of it, in a word or two."""
    if info.error:
        return f"unreadable: {info.error}"
    if info.paused:
        return "paused"
    if not info.stopped:
        return "active"
    return f"stopped: no scheduler {'declares it' if info.declared else 'runs'}"


def _row(info: ScheduleInfo) -> list[Any]:
    rule = str(info.rule) if info.rule else ""
    return [info.name, rule, info.job_name, _state(info), info.last_slot, info.next_slot, info.missed]


def _document(info: ScheduleInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "rule": info.rule.text if info.rule else None,
        "words": str(info.rule) if info.rule else None,
        "job_name": info.job_name,
        "parameters": show.json_value(info.parameters),
        "accuracy": info.accuracy,
        "state": _state(info).partition(":")[0],
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
        "state": _state(info),
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
    """A slot in UTC, in its rule's zone, and in this machine's, where these differ."""
    if slot is None:
        return ""
    zones: list[tzinfo | None] = [UTC, slot.tzinfo, None]
    return " = ".join(dict.fromkeys(slot.astimezone(zone).isoformat(" ", "seconds") for zone in zones))

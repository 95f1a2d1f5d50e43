"""Prints results: as tables for people, which stay readable in a pipe, or as JSON for programs."""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from redisjobs.base.visible import visible
from redisjobs.cli.output import is_read, say, telling
from redisjobs.client.registry import Registry
from redisjobs.model.info import ChildGroup, ChildInfo, JobInfo, PauseInfo
from redisjobs.model.job import ENDED, State
from redisjobs.model.progress import Progress, amount
from redisjobs.model.queries import Counts
from redisjobs.model.steps import StepInfo

_WIDTH = 4000  # columns, so that rich folds and cuts nothing; a narrow terminal wraps lines itself
_SHORT, _LINE = 60, 200  # characters of a long text in a list, and of one that has a line to itself
_LONG = ("parameters", "error", "progress", "result")
_COLUMNS = {
    None: "job_id name state attempt queued_at duration progress why_waiting worker error".split(),
    State.READY: ("job_id", "name", "priority", "attempt", "queued_at", "why_waiting", "parameters"),
    State.RUNNING: (
        "job_id name priority attempt deliveries started_at duration progress worker parameters"
    ).split(),
    State.DELAYED: ("job_id", "name", "priority", "attempt", "due_at", "why_waiting", "error"),
    State.SUSPENDED: (
        "job_id",
        "name",
        "priority",
        "attempt",
        "suspended_at",
        "waits_for",
        "wakes_at",
        "why_waiting",
    ),
    State.DEAD: ("job_id", "name", "reason", "attempt", "failed_at", "error"),
    State.COMPLETED: ("job_id", "name", "attempt", "finished_at", "duration", "worker", "parameters"),
    State.CANCELLED: ("job_id", "name", "attempt", "finished_at", "duration", "worker", "parameters"),
}


def document(value: Any) -> bool:
    """Print a value as JSON, with times in ISO 8601; return what `say` returns."""
    return say(json.dumps(value, indent=2, default=_iso))


def line(value: Any) -> bool:
    """Print a value as JSON on one line; return what `say` returns."""
    return say(json.dumps(value, default=_iso))


def done(text: str, value: Any, as_json: bool) -> None:
    """Print what a command has done, as text or as JSON; if stdout can't be written, put the text in the error."""
    with telling(text):
        if as_json:
            document(value)
        else:
            say(text)


def listing(
    documents: Iterable[Any],
    as_json: bool,
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    title: str,
    none: str,
) -> None:
    """Print a list as JSON, or as a table with a title; print the text `none` for an empty table."""
    if as_json:
        document([*documents])
    elif printed := [*rows]:
        table(columns, printed, title)
    else:
        say(none)


def _iso(value: Any) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    raise TypeError(f"{value!r} is not for JSON")


def job_document(job: JobInfo) -> dict[str, Any]:
    """Return a job as a value for JSON, with its parameters decoded by `json_value`."""
    return dataclasses.asdict(job) | {"parameters": json_value(job.parameters)}


def json_value(text: str) -> Any:
    """Return the value of a JSON text, or the text itself if it is not JSON or too deep to print."""
    with suppress(ValueError, RecursionError):
        value = json.loads(text)
        # From Python 3.12 on, json reads deeper values than it writes. It also reads NaN, which is not JSON.
        json.dumps([[[value]]], indent=2, allow_nan=False)
        return value
    return text


def counts_document(queue: Registry, counts: Counts, pauses: PauseInfo) -> dict[str, Any]:
    """Return the counts of a queue as a value for JSON."""
    paused = {"paused_since": pauses.since, "paused_names": pauses.names, "held": pauses.held}
    where = {"queue": queue.name, "server": queue.driver.where}
    return {**where, **dataclasses.asdict(counts), **paused}


def job_list(jobs: Sequence[JobInfo], state: State | None, where: str, as_json: bool) -> None:
    """Print jobs of one state, or of all."""
    which = "dead letters" if state is State.DEAD else f"{state} jobs" if state else "jobs"
    columns = _COLUMNS[state]
    rows = ([getattr(job, column) for column in columns] for job in jobs)
    documents = map(job_document, jobs)
    listing(documents, as_json, columns, rows, f"{which} on {where}", f"no {which} on {where}")


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str) -> bool:
    """Print a title and a table, one row per line; return what `say` returns."""
    printed = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in columns:
        printed.add_column(column.replace("_", " "))
    for row in rows:
        printed.add_row(*map(_cell, columns, row))
    return _print(printed, f"{title}\n")


def job_page(job: JobInfo) -> None:
    """Print all facts about one job."""
    for column in (field.name for field in dataclasses.fields(job)):
        value = getattr(job, column)
        if value not in ("", None, False, ()) and column not in ("traceback", "history"):
            say(f"{column.replace('_', ' '):<11} {_text(value)}")
    for event in job.history:
        worker, attempt = (
            f" on {event.worker}" * bool(event.worker),
            f" attempt {event.attempt}" * bool(event.attempt),
        )
        said = visible(f"{event.what}{attempt}{worker}  {event.note}", _LINE)
        say(f"{_text(event.at):<22}{said}")
    if job.traceback:
        say("\n" + "\n".join(map(visible, job.traceback.splitlines())))


def story_document(steps: Sequence[StepInfo], groups: Sequence[ChildGroup]) -> dict[str, Any]:
    """Return the steps and the children of a job as values for JSON, with values decoded by `json_value`."""
    return {
        "steps": [
            {**dataclasses.asdict(step), "value": json_value(step.value) if step.value else None} for step in steps
        ],
        "children": [
            {
                "step": group.step,
                "total": group.total,
                "left": group.left,
                "children": [*map(child_document, group.children)],
            }
            for group in groups
        ],
    }


def child_document(child: ChildInfo) -> dict[str, Any]:
    """Return a child as a value for JSON; of one that was looked up and has not ended, with the job's state."""
    return {
        "index": child.index,
        "job_id": child.job_id,
        "state": child.job.state if child.job else child.state,
        "result": json_value(child.result) if child.result else None,
        "error": child.error,
        "error_type": child.error_type,
    }


def story_page(steps: Sequence[StepInfo], groups: Sequence[ChildGroup]) -> None:
    """Print the steps of a job, one per line, and below each step its children."""
    of_step = {group.step: group for group in groups}
    for step in steps:
        said = f"step {visible(step.key, _LINE)}: {visible(step.says, _LINE)}"
        say(f"{_text(step.at):<22}{'  '.join(filter(None, [said, visible(step.value, _LINE)]))}")
        _children(of_step.pop(step.key, None))
    for group in of_step.values():
        say(f"{'':<22}children of {visible(group.step, _LINE)}: {group.ended}")
        _children(group)


def _children(group: ChildGroup | None) -> None:
    texts = [
        "  ".join(
            filter(None, [visible(child.job_id, _LINE), child.says, visible(child.error or child.result, _LINE)])
        )
        for child in (group.children if group else ())
    ]
    if group and group.total > len(texts):
        texts.append(f"and {group.total - len(texts):,} more: --children lists all")
    for text in texts[:-1]:
        say(f"{'':<22}├ {text}")
    for text in texts[-1:]:
        say(f"{'':<22}└ {text}")


def facts(known: Mapping[str, str]) -> None:
    """Print facts, one per line."""
    for what, value in known.items():
        say(f"{what:<11} {visible(value)}")


def labelled(known: Mapping[str, Any]) -> None:
    """Print facts of any kind, one per line, by their keys in a column as wide as the longest."""
    width = max(map(len, known), default=0) + 2
    for key, value in known.items():
        texts = [visible(each, _LINE) for each in value] if isinstance(value, list) else [_text(value, _LINE)]
        say(f"{key.replace('_', ' '):<{width}}{', '.join(texts)}")


def end_page(end: Mapping[str, Any]) -> None:
    """Print how one job has ended, and its result as JSON."""
    for column, value in end.items():
        text = visible(json.dumps(value, ensure_ascii=False)) if column == "result" else _text(value)
        say(f"{column.replace('_', ' '):<11} {text}")


def counts_table(where: str, counts: Counts, pauses: PauseInfo, before: str = "") -> bool:
    """Print `before`, then how many jobs are in each state, and the counters; return what `say` returns."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column(Text(f"{where}{_paused(pauses)}"))
    table.add_column("jobs", justify="right")
    states = {f"ready, {priority}": number for priority, number in counts.ready.items()}
    states |= {state: counts.of(state) for state in State if state is not State.READY and state not in ENDED}
    states |= {"held": pauses.held} if pauses.held else {}
    states |= {state: number for state in ENDED if (number := counts.of(state))}
    _add_numbers(table, states)
    table.add_section()
    _add_numbers(table, {f"{name} in all": number for name, number in sorted(counts.totals.items())})
    return _print(table, before)


def _paused(pauses: PauseInfo) -> str:
    names = f", paused by name: {', '.join(map(visible, pauses.names))}" if pauses.names else ""
    return f"{', paused since ' + _text(pauses.since) if pauses.since else ''}{names}"


def _add_numbers(table: Table, numbers: Mapping[str, int]) -> None:
    for name, number in numbers.items():
        table.add_row(Text(visible(name)), str(number))


def _cell(column: str, value: Any) -> Text:
    return Text(_text(value, _SHORT if column in _LONG else None))


def _text(value: Any, most: int | None = None) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(" ", "seconds").replace("+00:00", "Z")
    if isinstance(value, Progress):
        return "  ".join(filter(None, [amount(value), visible(value.note, most)]))
    if isinstance(value, float):
        return f"{value:.1f} s" if value < 100 else str(timedelta(seconds=round(value)))
    if isinstance(value, tuple):
        return visible(", ".join(map(str, value)), most)
    if isinstance(value, Mapping):
        return visible(json.dumps(value), most)
    return visible(str(value if value is not None else ""), most)


def _print(table: Table, before: str = "") -> bool:
    console = Console(width=_WIDTH, highlight=False)
    printed = console.capture()

    def render() -> None:
        with printed:  # flushes stdout at its end
            console.print(table)

    return is_read(render) and say(before + printed.get().removesuffix("\n"))

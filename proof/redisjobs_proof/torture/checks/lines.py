"""The recordings of a run, with a line for each thing that happened to a job."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from redisjobs.events import JobsCancelled, JobsSettled, ScheduleFired, recording

_SETTLED = {kind.__name__ for kind in JobsSettled.__subclasses__()}


def read(directory: str | Path) -> Iterator[dict[str, Any]]:
    """Yield every line; an event of several jobs as one line each: `settled`, `ended` by Redis, or `fired`."""
    for line in recording.read(directory):
        if line["what"] in _SETTLED:
            yield from (_of_one(line, job) for job in line["jobs"])
        elif line["what"] == ScheduleFired.__name__:
            yield from (_of_slot(line, *job) for job in line["jobs"])
        else:
            yield line


def supervisors(lines: Iterable[Mapping[str, Any]]) -> set[int]:
    """Return the processes that started worker processes: they record events too, and run no jobs."""
    return {line["parent"] for line in lines if "parent" in line and line["what"] == "hello"}


def _of_slot(event: Mapping[str, Any], job_id: str, name: str, added: bool) -> dict[str, Any]:
    line = {key: event[key] for key in ("pid", "db", "at", "missed")}
    return line | {"what": "fired", "job": job_id, "name": name, "added": added}


def _of_one(event: Mapping[str, Any], job: Mapping[str, Any]) -> dict[str, Any]:
    line = {key: event[key] for key in ("pid", "db", "at", "worker")} | {"job": job["job_id"]}
    line["cancelled"] = event["what"] == JobsCancelled.__name__
    if job["lease"] is None:
        return line | {"what": "ended"}
    is_read = job["name"] != "?"  # else its attempt is unknown
    told = {key: job[key] for key in ("name", "reply", "settlement", "sent_at", "resent")}
    return (
        line
        | told
        | {
            "what": "settled",
            "attempt": job["attempt"] if is_read else 0,
            "deliveries": job["lease"]["deliveries"],
        }
    )

"""Recordings of the events of a process, and of its own lines. They survive the death of the process.

Each process has one file, with one JSON object per line. Each line is one write, so a process that is killed by
SIGKILL can only cut its last line. A cut line counts as not written.
"""

import json
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Any

from redisjobs.events.kinds import Event, Events, SettledJob
from redisjobs.model.transitions import Lease

Line = Mapping[str, Any]
"""A line of a recording."""


class Recording:
    """The file of this process in a folder, made with its first line. Any number of threads may write."""

    def __init__(self, directory: str | Path) -> None:
        self._path = Path(directory) / f"{os.getpid()}.jsonl"
        self._lock = threading.Lock()
        self._file = -1

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line."""
        with self._lock:
            if self._file < 0:
                self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(self._file, json.dumps(line).encode() + b"\n")

    def listen(self, events: Events, **facts: Any) -> None:
        """Append every event from now on: its kind as `what`, the process id, its attributes, and these facts."""
        events.subscribe(Event, lambda event: self.write({**_line(event), **facts}))


def read(directory: str | Path) -> Iterator[dict[str, Any]]:
    """Yield the complete lines of all processes; those of each process in order."""
    for path in sorted(Path(directory).glob("*.jsonl")):
        *whole, _cut = path.read_bytes().split(b"\n")
        for text in whole:
            yield json.loads(text)


def _line(event: Event) -> dict[str, Any]:
    return {"what": type(event).__name__, "pid": os.getpid(), **_fields(event)}


def _fields(value: Event | SettledJob) -> dict[str, Any]:
    return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}


def _plain(value: object) -> Any:
    """Return a value for JSON: for a lease its job and delivery, for an outcome or a settlement its kind."""
    match value:
        case str() | int() | float() | None:
            return value
        case datetime():
            return value.isoformat()
        case list() | tuple():
            return [_plain(each) for each in value]
        case SettledJob():
            return _fields(value)
        case Lease():
            return {"job_id": value.job_id, "deliveries": value.deliveries}
        case _:
            return type(value).__name__

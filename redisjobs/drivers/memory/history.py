"""A job's history: what happened to it that is not usual, one line an event. See `model/history.py`."""

import re
from collections.abc import Mapping

from redisjobs.drivers.memory.state import StoredJob, encoded

_MOST_LINES, _MOST_BYTES = 20, 4096
_SPACE, _SPACES = re.compile(r"[ \t-\r]"), re.compile(r"[ \t-\r]+")  # what Lua calls space


def event(now_ms: int, what: str, worker: str = "", attempt: str = "", note: str = "") -> str:
    """Return a line of a history."""
    words = [str(now_ms), what, _SPACE.sub("_", worker) or "-", attempt or "-"]
    cut = encoded(note)[:1000].decode("utf-8", "surrogateescape")
    return " ".join([*words, _SPACES.sub(" ", cut)])


def history(job: StoredJob, one: str = "") -> str:
    """Return a job's history: the lines of its entry, those noted since the entry was written, and `one`."""
    text = job.text(b"history")
    for line in (*job.noted, *([one] if one else ())):
        text = add_line(text, line)
    return text


def noted(job: StoredJob, one: str = "") -> Mapping[str, str]:
    """Return a job's history as a field for its new entry, if there is any."""
    text = history(job, one)
    return {"history": text} if text else {}


def note(job: StoredJob, one: str) -> None:
    """Add a line to the history of a job whose entry stays."""
    job.noted = add_line("\n".join(job.noted), one).split("\n")


def add_line(text: str, one: str) -> str:
    """Return a text of lines with one more. If it gets long, the first line and the newest stay."""
    lines = [*text.split("\n"), one] if text else [one]
    while len(lines) > 2 and (len(lines) > _MOST_LINES or len(encoded("\n".join(lines))) > _MOST_BYTES):
        del lines[1]
    return "\n".join(lines)

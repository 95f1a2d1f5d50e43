"""Filters for jobs: what `jobs`, `scan` and the calls about many jobs take."""

from datetime import timedelta
from typing import TypedDict

from redisjobs.base.arguments import is_text, milliseconds, seconds
from redisjobs.model.queries import Filter


class FilterOptions(TypedDict, total=False):
    """Filters for jobs. A job must match all options that are given.

    A wrong value or state is a `ValueError`. An option that does not exist is a `TypeError`.

    Attributes:
        name: The job's name.
        text: A text in its stored parameters or its last error; not a pattern.
        fingerprint: The kind of a dead letter's failure; see `JobInfo.fingerprint`.
        reason: The reason of a dead letter; see `JobInfo.reason`.
        worker: The worker that runs it; for a dead letter or a kept job, the one that settled it.
        older_than: The least age, in seconds or as a timedelta. It counts from when a job came to the queue, from
            when a dead letter died, and from when a kept job ended.
    """

    name: str | None
    text: str | None
    fingerprint: str | None
    reason: str | None
    worker: str | None
    older_than: float | timedelta | None


def filter_of(options: FilterOptions) -> Filter:
    """Return the filter that is sent to the store.

    Raises:
        ValueError: The value of an option is wrong.
        TypeError: An option does not exist.
    """
    unknown = options.keys() - FilterOptions.__annotations__.keys()
    if unknown:
        known = ", ".join(FilterOptions.__annotations__)
        raise TypeError(f"jobs are not chosen by {', '.join(sorted(unknown))}=; give one of {known}")
    older_than = options.get("older_than")
    return Filter(
        _text(options.get("name"), "name"),
        _text(options.get("text"), "text"),
        _text(options.get("fingerprint"), "fingerprint"),
        _text(options.get("reason"), "reason"),
        _text(options.get("worker"), "worker"),
        None if older_than is None else milliseconds(seconds(older_than, "older_than")),
    )


def _text(text: str | None, what: str) -> str:
    if text is None or is_text(text, r"(?s:.{1,1000})"):
        return text or ""
    raise ValueError(f"{what}={text!r:.60}: give 1 to 1,000 characters that UTF-8 can carry")

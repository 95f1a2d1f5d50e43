"""Which jobs an operator means: what is given to the calls that go through a whole state."""

from datetime import timedelta
from typing import TypedDict

from redisjobs.arguments import is_text, one_of
from redisjobs.driver import Filter
from redisjobs.durations import milliseconds, seconds
from redisjobs.job import State

SCANNED = (State.READY, State.DELAYED, State.DEAD)
"""The states that can be gone through."""


class FilterOptions(TypedDict, total=False):
    """Which jobs are meant; each option that is given must hold.

    Attributes:
        name: Of the job.
        text: What its parameters, as they are stored, or its last error have in them. It is no pattern.
        fingerprint: Of a dead letter's failure, as `JobInfo.fingerprint` has it.
        reason: Of a dead letter, as `JobInfo.reason` has it.
        older_than: For how long at least, in seconds or as a timedelta, it has been on the queue; a dead letter,
            been dead.
    """

    name: str | None
    text: str | None
    fingerprint: str | None
    reason: str | None
    older_than: float | timedelta | None


def filter_of(options: FilterOptions) -> Filter:
    """What was asked for, checked.

    Raises:
        ValueError: An option makes no sense.
        TypeError: There is no such option.
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
        None if older_than is None else milliseconds(seconds(older_than, "older_than")),
    )


def scanned_state(state: State | str) -> State:
    """A state that can be gone through.

    Raises:
        ValueError: It is no state, or that of jobs that run.
    """
    wanted = one_of(State, state, "state")
    if wanted not in SCANNED:
        raise ValueError(f"state={state!r}: give one of {', '.join(SCANNED)}; `jobs` lists those that run")
    return wanted


def _text(text: str | None, what: str) -> str:
    if text is None or is_text(text, r"(?s:.{1,1000})"):
        return text or ""
    raise ValueError(f"{what}={text!r}: give 1 to 1,000 characters that UTF-8 can carry")

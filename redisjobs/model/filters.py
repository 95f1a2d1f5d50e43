"""Which jobs an operator means: what is given to the calls that go through a whole state."""

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import TypedDict

from redisjobs.base.arguments import is_text, milliseconds, one_of, pause_of, seconds
from redisjobs.model.job import State
from redisjobs.model.queries import BulkResult, Cancel, ChangeMany, Filter, Hold, RequeueAll, Row, Unhold
from redisjobs.model.transitions import Reply

AT_ONCE = 100
"""Changes in one round trip: so many take a server a few ms."""

DONE = (Reply.OK, Reply.CANCELLED, Reply.CANCELLING, Reply.HELD)
"""What the store says of a job to which something was done."""


_ALL = (State.RUNNING, State.READY, State.DELAYED, State.DEAD, State.COMPLETED, State.CANCELLED)


class FilterOptions(TypedDict, total=False):
    """Which jobs are meant; each option that is given must hold.

    Attributes:
        name: Of the job.
        text: What its parameters, as they are stored, or its last error have in them. It is no pattern.
        fingerprint: Of a dead letter's failure, as `JobInfo.fingerprint` has it.
        reason: Of a dead letter, as `JobInfo.reason` has it.
        older_than: For how long at least, in seconds or as a timedelta, it has been on the queue; a dead letter,
            been dead; a job that has ended and was kept, since then.
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


def cancellable_state(state: State | str) -> State:
    """A state whose jobs can be cancelled all at once.

    Raises:
        ValueError: It is no state, or that of other jobs.
    """
    wanted = one_of(State, state, "state")
    if wanted not in (State.READY, State.DELAYED, State.RUNNING):
        raise ValueError(f"state={state!r}: give ready, delayed or running; `delete_all` deletes dead letters")
    return wanted


def states_of(state: State | str | None) -> Sequence[State]:
    """The states whose jobs are listed; None: all, those that run first.

    Raises:
        ValueError: There is no such state.
    """
    return _ALL if state is None else [one_of(State, state, "state")]


def waiting_state(state: State | str) -> State:
    """A state whose jobs can be held all at once.

    Raises:
        ValueError: It is no state, or that of other jobs.
    """
    wanted = one_of(State, state, "state")
    if wanted not in (State.READY, State.DELAYED):
        raise ValueError(f"state={state!r}: give ready or delayed; only jobs that wait can be held")
    return wanted


class Requeuing:
    """Requeues dead letters step by step: at once, or so many in a time.

    Args:
        wanted: Which of them.
        rate: As `100/s`, `20/m` or `5/h`; None: as fast as can be.

    Raises:
        ValueError: That is no rate.
    """

    def __init__(self, wanted: Filter, rate: str | None) -> None:
        self._wanted = wanted
        self._pause_ms = 0.0 if rate is None else pause_of(rate)
        self._began = time.monotonic()
        self._number = 0

    def step(self, taken: BulkResult) -> RequeueAll:
        """The step that comes after one; the first comes after nothing."""
        self._number += len(taken.job_ids)
        passed_ms = (time.monotonic() - self._began) * 1000
        wait_ms = self._number * self._pause_ms - passed_ms if self._pause_ms else 0.0
        return RequeueAll(self._wanted, taken.after, wait_ms, self._pause_ms)


def cancellation(rows: Sequence[Row]) -> ChangeMany:
    """The change that cancels these jobs, also where they run by now."""
    return ChangeMany([Cancel(row.job_id) for row in rows])


def holding(rows: Sequence[Row]) -> ChangeMany:
    """The change that holds these jobs, but for those that run by now."""
    return ChangeMany([Hold(row.job_id) for row in rows])


def letting_go(rows: Sequence[Row]) -> ChangeMany:
    """The change that lets go of those of these jobs that are held."""
    return ChangeMany([Unhold(row.job_id) for row in rows if row.held])


def done(replies: Sequence[Reply]) -> int:
    """To how many it was done."""
    return sum(reply in DONE for reply in replies)


def _text(text: str | None, what: str) -> str:
    if text is None or is_text(text, r"(?s:.{1,1000})"):
        return text or ""
    raise ValueError(f"{what}={text!r}: give 1 to 1,000 characters that UTF-8 can carry")

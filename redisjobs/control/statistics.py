"""Reading statistics, once for the async and the sync queue; see `client/operation.py`."""

from datetime import datetime, timedelta
from typing import Any

from redisjobs.base.arguments import aware
from redisjobs.client.operation import Operation, pages_of
from redisjobs.control.operations import name_or_all
from redisjobs.model.job import JobName
from redisjobs.model.recording import FindIntervals
from redisjobs.model.statistics import Interval, Overview, Span, intervals_of

_HOUR = 60  # intervals of an overview: minutes


def statistics(
    last: float | timedelta, name: str | JobName[Any] | None, since: datetime | None
) -> Operation[list[Interval]]:
    """Read the statistics of one job name, or of all."""
    (minutes, count), wanted = intervals_of(last), name_or_all(name)
    first = 0 if since is None else int(aware(since, "since").timestamp() // (60 * minutes))
    begin = str(first) if first else ""
    found = yield from pages_of(lambda after: FindIntervals(minutes, count, wanted, after=after or begin))
    return Span(minutes, count, found).intervals(wanted, first)


def overview(previous: Overview | None) -> Operation[Overview]:
    """Read the statistics of the last hour, all names and causes; of closed minutes only the new ones."""
    if previous is not None and not isinstance(previous, Overview):
        raise TypeError(f"previous={previous!r:.60}: give the result of an earlier call, or None")
    before = previous.span if previous else None
    begin = str(before.current) if before else ""
    found = yield from pages_of(lambda after: FindIntervals(1, _HOUR, is_whole=True, after=after or begin))
    span = Span(1, _HOUR, found, before.found if before else {})
    if before and span.current < before.current:  # the server's clock was set back
        return (yield from overview(None))
    return Overview(span)

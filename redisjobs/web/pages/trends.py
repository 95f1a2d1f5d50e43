"""Plots of what workers report: throughput, waits, run times, backlog; of a queue or of one job name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from redisjobs.model.statistics import Interval, Percentiles
from redisjobs.web.board.visit import Visit
from redisjobs.web.show.format import duration, short
from redisjobs.web.show.plots import PlotLine, plot

RANGES = {"1h": ("1 hour", 3600), "8h": ("8 hours", 8 * 3600), "3d": ("3 days", 3 * 86_400)}
"""The times to choose from: what each is called, and its seconds."""


@dataclass(frozen=True, slots=True)
class Trend:
    """One plot.

    Attributes:
        title: What it shows.
        unit: In what, or on which scale.
        lines: For each line its name, its colour, and its last value as text.
        drawn: The plot.
    """

    title: str
    unit: str
    lines: Sequence[tuple[str, str, str]]
    drawn: Markup


async def trends(visit: Visit, name: str = "") -> tuple[str, Sequence[Trend]]:
    """Return the chosen time, and the plots of a queue or of one job name; none before the first minute."""
    chosen = visit.query.get("range", "")
    chosen = chosen if chosen in RANGES else "1h"
    found = await visit.board.statistics(RANGES[chosen][1], name)
    closed = [interval for interval in found if interval.is_closed]
    if not any(interval.sums or interval.sample for interval in closed):
        return chosen, ()
    drawn = [_throughput(closed), _times(closed, "Wait until start", lambda each: each.wait)]
    drawn.append(_times(closed, "Run time", lambda each: each.run))
    return chosen, drawn if name else [*drawn, _backlog(closed)]


def _throughput(found: Sequence[Interval]) -> Trend:
    series = [
        PlotLine("done", "done", [each.throughput for each in found]),
        PlotLine("retried", "delayed", [each.retried / each.seconds for each in found]),
        PlotLine("dead", "dead", [each.dead / each.seconds for each in found]),
    ]
    return _trend("Throughput", "jobs a second", series, found, short)


def _times(found: Sequence[Interval], title: str, read: Callable[[Interval], Percentiles | None]) -> Trend:
    each = [read(interval) for interval in found]
    series = [
        PlotLine("p50", "ready", [one.p50 if one else None for one in each]),
        PlotLine("p95", "delayed", [one.p95 if one else None for one in each]),
        PlotLine("p99", "dead", [one.p99 if one else None for one in each]),
    ]
    return _trend(title, "log scale", series, found, duration, is_log=True)


def _backlog(found: Sequence[Interval]) -> Trend:
    samples = [each.sample for each in found]
    series = [
        PlotLine("ready", "ready", [one.ready if one else None for one in samples]),
        PlotLine("running", "running", [one.running if one else None for one in samples]),
    ]
    return _trend("Backlog", "jobs", series, found, short)


def _trend(
    title: str,
    unit: str,
    series: Sequence[PlotLine],
    found: Sequence[Interval],
    text: Callable[[float], str],
    *,
    is_log: bool = False,
) -> Trend:
    lines = []
    for one in series:
        last = next((value for value in reversed(one.values) if value is not None), None)
        lines.append((one.label, one.color, "" if last is None else text(last)))
    drawn = plot(series, found[0].start, found[0].seconds, text, f"{title}, {unit}", is_log=is_log)
    return Trend(title, unit, lines, drawn)

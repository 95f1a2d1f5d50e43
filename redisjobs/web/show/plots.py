"""Plots as SVG, made by the server. Pure.

The SVG is stretched to the width of its place. So its labels are HTML around it, and its lines keep their width.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from markupsafe import Markup, escape

_WIDTH, _HEIGHT = 600, 160
_SPARK_WIDTH, _SPARK_HEIGHT = 96, 24
_LINES = 4  # horizontal lines, with the one at the bottom
_ROUND = (1.2, 1.5, 1.8, 2.4, 3, 3.6, 4.5, 6, 9)  # tops whose third is round, too
_DECADES = 4  # between the lines of a logarithmic scale, before a line is left out
_LEAST = -3  # the power of ten at its bottom: a millisecond
_TICKS = 5  # times below a plot
_COLUMNS = 120  # that show values: each costs 130 bytes

Value = float | None


@dataclass(frozen=True, slots=True)
class PlotLine:
    """One line of a plot.

    Attributes:
        label: Its name.
        color: The class of its colour: the name of a state.
        values: One value for each interval; None where there is none.
    """

    label: str
    color: str
    values: Sequence[Value]


@dataclass(frozen=True, slots=True)
class Scale:
    """How high a value stands in a plot: in proportion to the top, or to its logarithm.

    Attributes:
        levels: The values at the lines, from the bottom up, in equal distances.
        is_log: Whether each line is a multiple of the one below.
    """

    levels: Sequence[float]
    is_log: bool = False

    @classmethod
    def linear(cls, values: Sequence[float]) -> "Scale":
        """Return a scale from 0 to a round number."""
        top = nice(max(values, default=0.0))
        return cls([top * level / (_LINES - 1) for level in range(_LINES)])

    @classmethod
    def log(cls, values: Sequence[float]) -> "Scale":
        """Return a scale of powers of ten, on which the usual values stay apart beside a far higher one."""
        values = [value for value in values if value > 0] or [0.001]
        low = max(_LEAST, math.floor(math.log10(min(values)) + 1e-9))
        decades = max(1, math.ceil(math.log10(max(values)) - 1e-9) - low)
        each = math.ceil(decades / _DECADES) if decades > 1 else 0.5  # of one decade, a line in the middle
        return cls([10 ** (low + each * line) for line in range(math.ceil(decades / each) + 1)], is_log=True)

    def at(self, value: float) -> float:
        """Return the place of a value: 0 at the bottom, 1 at the top."""
        low, high = self.levels[0], self.levels[-1]
        if self.is_log:
            low, high, value = math.log(low), math.log(high), math.log(max(value, low))
        return min(max((value - low) / (high - low), 0.0), 1.0)


def plot(
    series: Sequence[PlotLine],
    start: datetime,
    step: float,
    unit: Callable[[float], str],
    label: str,
    *,
    is_log: bool = False,
) -> Markup:
    """Return a plot of lines over time, as HTML. The first series is filled, except on a logarithmic scale.

    Args:
        series: The lines, of one length.
        start: When the first interval began.
        step: Seconds from one interval to the next.
        unit: Returns a value as text.
        label: What the plot shows, for a screen reader.
        is_log: Whether the scale is logarithmic.
    """
    values = [value for one in series for value in one.values if value is not None and math.isfinite(value)]
    scale = Scale.log(values) if is_log else Scale.linear(values)
    levels = [unit(level) for level in reversed(scale.levels)]
    length = max((len(one.values) for one in series), default=0)
    drawn = "".join(_drawn(one, scale, filled=not at and not is_log) for at, one in enumerate(series))
    clock = _clock(start, step, length)
    lines = _grid(len(levels)) + drawn + _readings(series, length, clock, unit)
    svg = _svg(_WIDTH, _HEIGHT, lines, label)
    ticks = [clock(round((length - 1) * tick / (_TICKS - 1))) for tick in range(_TICKS)]
    return Markup('<div class="plot"><div class="levels">{}</div>{}<div class="ticks">{}</div></div>').format(
        _spans(levels), Markup(svg), _spans(ticks)
    )


def sparkline(values: Sequence[Value], color: str, label: str) -> Markup:
    """Return a small plot of one line, without axes."""
    top = max((value for value in values if value is not None), default=0.0) or 1.0
    scale, series = Scale([0.0, top]), PlotLine("", color, values)
    drawn = _drawn(series, scale, filled=True, width=_SPARK_WIDTH, height=_SPARK_HEIGHT)
    return Markup(_svg(_SPARK_WIDTH, _SPARK_HEIGHT, drawn, label, "spark"))


def nice(value: float) -> float:
    """Return a round number that is not less, and whose third is round, too; 3 for 0 or less."""
    if value <= 0 or not math.isfinite(value):
        return 3.0
    power = 10.0 ** math.floor(math.log10(value))
    return next((step * power for step in _ROUND if value <= step * power * 1.0001), 12 * power)


def _svg(width: int, height: int, inside: str, label: str, kind: str = "lines") -> str:
    return (
        f'<svg class="{kind}" viewBox="0 0 {width} {height}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(label)}">{inside}</svg>'
    )


def _grid(lines: int) -> str:
    steps = (_HEIGHT * at / (lines - 1) for at in range(lines))
    return "".join(f'<line class="grid" x1="0" x2="{_WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>' for y in steps)


def _drawn(one: PlotLine, scale: Scale, *, filled: bool, width: int = _WIDTH, height: int = _HEIGHT) -> str:
    """Return the paths of one series: a line for each stretch of values, and the areas below if it is filled."""
    between = width / max(1, len(one.values) - 1)
    paths = list[str]()
    for stretch in _stretches(one.values):
        points = [f"{at * between:.1f},{height - height * scale.at(value):.1f}" for at, value in stretch]
        if len(points) == 1:  # a stub, as one point alone would not be seen
            points.insert(0, f"{max(0.0, (stretch[0][0] - 0.5) * between):.1f},{points[0].partition(',')[2]}")
        line = "M" + " L".join(points)
        if filled:
            first, last = stretch[0][0] * between, stretch[-1][0] * between
            paths.append(f'<path class="area" d="{line} L{last:.1f},{height} L{first:.1f},{height} Z"/>')
        paths.append(f'<path class="stroke" d="{line}"/>')
    return f'<g class="{escape(one.color)}">{"".join(paths)}</g>'


def _stretches(values: Sequence[Value]) -> list[list[tuple[int, float]]]:
    """Return the values with their places, split where values are missing."""
    found: list[list[tuple[int, float]]] = [[]]
    for at, value in enumerate(values):
        if value is not None and math.isfinite(value):
            found[-1].append((at, max(0.0, value)))
        elif found[-1]:
            found.append([])
    return [stretch for stretch in found if stretch]


def _readings(
    series: Sequence[PlotLine], length: int, clock: Callable[[int], str], unit: Callable[[float], str]
) -> str:
    """Return columns that show values under the mouse: those of one interval, or of the highest of several."""
    each = math.ceil(length / _COLUMNS)
    between, columns = _WIDTH / max(1, length - 1), list[str]()
    for first in range(0, length, max(1, each)):
        at = max(range(first, min(first + each, length)), key=lambda number: _sum(series, number))
        values = [(one.label, one.values[at]) for one in series if at < len(one.values)]
        said = ", ".join(f"{label} {unit(value)}" for label, value in values if value is not None)
        columns.append(
            f'<rect x="{(first - 0.5) * between:.1f}" y="0" width="{each * between:.1f}" height="{_HEIGHT}">'
            f"<title>{escape(clock(at))}: {escape(said or 'nothing recorded')}</title></rect>"
        )
    return f'<g class="readings">{"".join(columns)}</g>'


def _sum(series: Sequence[PlotLine], number: int) -> float:
    values = (one.values[number] for one in series if number < len(one.values))
    return sum(value for value in values if value is not None and math.isfinite(value))


def _clock(start: datetime, step: float, length: int) -> Callable[[int], str]:
    """Return when an interval began, as text; with its day if there are several."""
    pattern = "%a %H:%M" if step * length > 86_400 else "%H:%M"
    return lambda number: f"{(start + timedelta(seconds=step * number)).astimezone(UTC):{pattern}}"


def _spans(texts: Sequence[str]) -> Markup:
    return Markup("").join(Markup("<span>{}</span>").format(text) for text in texts)

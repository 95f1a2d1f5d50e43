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
_TICKS = 5  # times below a plot

Value = float | None


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a plot.

    Attributes:
        label: Its name.
        color: The class of its colour: the name of a state.
        values: One value for each interval; None where there is none.
    """

    label: str
    color: str
    values: Sequence[Value]


def plot(
    series: Sequence[Series], start: datetime, step: float, unit: Callable[[float], str], label: str
) -> Markup:
    """Return a plot of lines over time, as HTML. The first series is filled.

    Args:
        series: The lines, of one length.
        start: When the first interval began.
        step: Seconds from one interval to the next.
        unit: Returns a value as text.
        label: What the plot shows, for a screen reader.
    """
    top = _top(series)
    levels = [unit(top * level / (_LINES - 1)) for level in range(_LINES - 1, -1, -1)]
    length = max((len(one.values) for one in series), default=0)
    drawn = "".join(_drawn(one, top, filled=not at) for at, one in enumerate(series))
    svg = _svg(_WIDTH, _HEIGHT, _grid() + drawn + _readings(_texts(series, length, start, step, unit)), label)
    ticks = [_time(start + timedelta(seconds=step * (length - 1) * at / (_TICKS - 1))) for at in range(_TICKS)]
    return Markup('<div class="plot"><div class="levels">{}</div>{}<div class="ticks">{}</div></div>').format(
        _spans(levels), Markup(svg), _spans(ticks)
    )


def sparkline(values: Sequence[Value], color: str, label: str) -> Markup:
    """Return a small plot of one line, without axes."""
    top = max((value for value in values if value is not None), default=0.0) or 1.0
    drawn = _drawn(Series("", color, values), top, filled=True, width=_SPARK_WIDTH, height=_SPARK_HEIGHT)
    return Markup(_svg(_SPARK_WIDTH, _SPARK_HEIGHT, drawn, label, "spark"))


def nice(value: float) -> float:
    """Return a round number that is not less, and whose third is round, too; 3 for 0 or less."""
    if value <= 0 or not math.isfinite(value):
        return 3.0
    power = 10.0 ** math.floor(math.log10(value))
    return next((step * power for step in (1.2, 1.5, 3, 4.5, 6, 9) if value <= step * power * 1.0001), 12 * power)


def _top(series: Sequence[Series]) -> float:
    return nice(max((value for one in series for value in one.values if value is not None), default=0.0))


def _svg(width: int, height: int, inside: str, label: str, kind: str = "lines") -> str:
    return (
        f'<svg class="{kind}" viewBox="0 0 {width} {height}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(label)}">{inside}</svg>'
    )


def _grid() -> str:
    steps = (_HEIGHT * at / (_LINES - 1) for at in range(_LINES))
    return "".join(f'<line class="grid" x1="0" x2="{_WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>' for y in steps)


def _drawn(one: Series, top: float, *, filled: bool, width: int = _WIDTH, height: int = _HEIGHT) -> str:
    """Return the paths of one series: a line for each stretch of values, and the areas below if it is filled."""
    between = width / max(1, len(one.values) - 1)
    paths = list[str]()
    for stretch in _stretches(one.values):
        points = [f"{at * between:.1f},{height - height * min(value, top) / top:.1f}" for at, value in stretch]
        line = "M" + " L".join(points if len(points) > 1 else points * 2)  # a round cap makes it a dot
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


def _texts(
    series: Sequence[Series], length: int, start: datetime, step: float, unit: Callable[[float], str]
) -> list[str]:
    """Return the values of each interval as text."""
    texts = list[str]()
    for at in range(length):
        values = [(one.label, one.values[at]) for one in series if at < len(one.values)]
        said = ", ".join(f"{label} {unit(value)}" for label, value in values if value is not None)
        texts.append(f"{_time(start + timedelta(seconds=step * at))}: {said or 'nothing recorded'}")
    return texts


def _readings(texts: Sequence[str]) -> str:
    """Return a column for each interval that shows its values under the mouse."""
    width = _WIDTH / max(1, len(texts) - 1)
    columns = (
        f'<rect x="{(at - 0.5) * width:.1f}" y="0" width="{width:.1f}" height="{_HEIGHT}">'
        f"<title>{escape(text)}</title></rect>"
        for at, text in enumerate(texts)
    )
    return f'<g class="readings">{"".join(columns)}</g>'


def _time(when: datetime) -> str:
    return f"{when.astimezone(UTC):%H:%M}"


def _spans(texts: Sequence[str]) -> Markup:
    return Markup("").join(Markup("<span>{}</span>").format(text) for text in texts)

"""What a run says: a table, JSON, a page, and a drawing."""

import platform
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from benchmarks.measures import ROWS, TIMES, Row
from benchmarks.systems import FLOOR, PEER_NAMES, SYSTEMS, US

DASH = "\N{EN DASH}"
PARTS = {
    "features": "What each feature costs",
    "waiters": "Many waiting tasks",
    "limits": "Limits, under kills",
    "flows": "Steps, waits and children",
    "suspended": "A million suspended jobs",
    "postgres": "On Postgres, beside others",
    "postgres_alone": "On Postgres, for long",
    "growth": "How the cost grows",
}
"""Parts of the page with a date of their own, in order: by their key the heading."""

Samples = dict[str, dict[str, list[float]]]  # by a row's key and a system's name: one figure a round


_FOLDERS = re.compile(r"""(?<![\w.:/])/(?:[^\s/"':]+/)+""")


@dataclass
class Run:
    """All that was measured in one run, as it is written to JSON.

    Attributes:
        date: When it began, ISO 8601.
        quick: Whether it was a quick one.
        rounds: How many times each measure was taken.
        machine: What it ran on.
        server: The Redis-compatible server.
        versions: Of each system.
        samples: The figures.
        failures: System, measure and reason of what could not be measured.
        beside: What was measured apart, by a key of `PARTS`, with its own date; Markdown.
    """

    date: str
    quick: bool
    rounds: int
    machine: str
    server: str
    versions: dict[str, str] = field(default_factory=dict)
    samples: Samples = field(default_factory=dict)
    failures: list[list[str]] = field(default_factory=list)
    beside: dict[str, str] = field(default_factory=dict)

    def add(self, system: str, figures: dict[str, float]) -> None:
        """Take the figures of one round."""
        for key, value in figures.items():
            self.samples.setdefault(key, {}).setdefault(system, []).append(value)

    def fail(self, system: str, what: str, why: str) -> None:
        """Take what could not be measured, and why: without the folders of this machine, as it is published."""
        self.failures.append([system, what, _FOLDERS.sub("", why)])

    def as_json(self) -> dict[str, Any]:
        """For a JSON file."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Run":
        """What `as_json` made."""
        return cls(**data)


@dataclass(frozen=True)
class Line:
    """One row of the comparison.

    Attributes:
        row: Which.
        ours: Our median, as shown; None where it was not measured.
        best: The best peer's name and median, if any peer has one.
        ratio: Ours by the best peer's; more is better for us where more is better, less where less is.
        holds: Whether "must" holds; None where there is nothing to hold it against.
    """

    row: Row
    ours: float | None
    best: tuple[str, float] | None
    ratio: float | None
    holds: bool | None


def compare(samples: Samples, row: Row) -> Line:
    """Our median beside the best peer's, and whether what must hold does."""
    medians = {name: statistics.median(values) * row.scale for name, values in samples.get(row.key, {}).items()}
    ours, floor = medians.get(US), medians.get(FLOOR)
    peers = {name: value for name, value in medians.items() if name in PEER_NAMES}
    pick = max if row.better == "more" else min
    best = pick(peers.items(), key=lambda item: item[1]) if peers else None
    ratio = ours / best[1] if ours is not None and best and best[1] else None
    against = {"best": best[1] if best else None, "floor": floor, "limit": 1.0}.get(row.must)
    holds = None
    if ours is not None and against is not None:
        holds = ours >= against * row.bound if row.better == "more" else ours <= against * row.bound
    return Line(row, ours, best, ratio, holds)


def number(value: float | None) -> str:
    """Three figures that count, and no more."""
    if value is None:
        return DASH
    if abs(value) >= 100:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.001 else "0"


def spread(values: Sequence[float], scale: float) -> str:
    """The median, and the least and the most where there are several."""
    if not values:
        return DASH
    middle = number(statistics.median(values) * scale)
    if len(values) == 1:
        return middle
    return f"{middle} ({number(min(values) * scale)}{DASH}{number(max(values) * scale)})"


def must(row: Row) -> str:
    """What must hold, in words."""
    sign = "≥" if row.better == "more" else "≤"
    match row.must:
        case "best":
            return f"{sign} the best" if row.bound == 1 else f"{sign} {row.bound:g} {TIMES} the best"
        case "floor":
            return f"{sign} {row.bound:g} {TIMES} the floor's"
        case "limit":
            return f"{sign} {row.bound:g} {row.unit}"
    return ""


def comparison(samples: Samples) -> str:
    """The table of the issue, as Markdown."""
    rows = []
    for line in (compare(samples, row) for row in ROWS if row.key in samples):
        measured = samples[line.row.key]
        best = DASH if line.best is None else f"{line.best[0]} {number(line.best[1])}"
        holds = {True: "yes", False: "**no**", None: ""}[line.holds]
        rows.append(
            [
                f"{line.row.label}, {line.row.unit}",
                spread(measured.get(US, []), line.row.scale),
                best,
                DASH if line.ratio is None else f"{line.ratio:.2f} {TIMES}",
                spread(measured.get(FLOOR, []), line.row.scale),
                must(line.row),
                holds,
            ]
        )
    return table(["", "redisjobs", "best peer", "ours ÷ best", "floor", "must", "holds"], rows)


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Ours by theirs, round by round; rounds that only one has, or where theirs is nothing, are left out."""
    return [mine / other for mine, other in zip(ours, theirs, strict=False) if other]


def beside_commit(samples: Samples, name: str) -> str:
    """The working tree beside one commit of its past, as Markdown."""
    rows = []
    for row in (row for row in ROWS if name in samples.get(row.key, {})):
        ours, theirs = samples[row.key].get(US, []), samples[row.key][name]
        by_round = ratios(ours, theirs)
        more, less = sum(ratio > 1 for ratio in by_round), sum(ratio < 1 for ratio in by_round)
        better, worse = (more, less) if row.better == "more" else (less, more)
        rows.append(
            [
                f"{row.label}, {row.unit}",
                spread(ours, row.scale),
                spread(theirs, row.scale),
                spread(by_round, 1.0),
                row.better,
                f"{better} / {worse}",
            ]
        )
    return table(["", US, name, "ours ÷ theirs", "better is", "rounds better / worse"], rows)


def pasts(samples: Samples) -> list[str]:
    """One such table for each commit of the run."""
    return [beside_commit(samples, name) for name in _commits(samples)]


def _commits(samples: Samples) -> list[str]:
    """The names of the commits that were measured."""
    names = dict.fromkeys(name for values in samples.values() for name in values)
    return [name for name in names if name.startswith(f"{US}@")]


def tables(samples: Samples) -> list[str]:
    """What a run prints; without peers and floor, the tables of the commits say all there is."""
    past = pasts(samples)
    others = {name for values in samples.values() for name in values} & {*PEER_NAMES, FLOOR}
    return past if past and not others else [comparison(samples), *past, everything(samples)]


def everything(samples: Samples) -> str:
    """Every system's figures, as Markdown."""
    systems = (US, *_commits(samples), *PEER_NAMES, FLOOR)
    names = [name for name in systems if any(name in values for values in samples.values())]
    rows = [
        [f"{row.label}, {row.unit}", *(spread(samples[row.key].get(name, []), row.scale) for name in names)]
        for row in ROWS
        if row.key in samples
    ]
    return table(["", *names], rows)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown that can be read as it is: columns of one width."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def losses(samples: Samples) -> list[str]:
    """The rows where a peer is ahead of us, and those that fall short of what they must, in words."""
    said = []
    for line in (compare(samples, row) for row in ROWS if row.key in samples):
        if line.ours is None:
            continue
        behind = line.best is not None and (
            line.ours < line.best[1] if line.row.better == "more" else line.ours > line.best[1]
        )
        what = f"{line.row.label}: {number(line.ours)} {line.row.unit}"
        if behind and line.best is not None:
            what += f", where {line.best[0]} has {number(line.best[1])}"
        if line.holds is False:
            what += f"; must be {must(line.row)}"
        if behind or line.holds is False:
            said.append(what)
    return said


def prices(run: Run) -> list[str]:
    """What each peer gives up for its figures: a title, and a list."""
    said = [f"- **{name}**: {SYSTEMS[name].gives_up}" for name in run.versions if name in PEER_NAMES]
    if not said:
        return []
    about = (
        "What redisjobs does in every figure above and the peer does not, from its code, its documents or a run. "
        "redisjobs checks which worker settles a job, adds a repeated push once, renews its leases, applies each "
        "timeout, and runs the jobs of a crashed worker within 17 seconds."
    )
    return ["## What each gives up", about, "\n".join(said)]


def page(run: Run) -> str:
    """`docs/benchmarks.md`."""
    lost, past = losses(run.samples), pasts(run.samples)
    parts = [
        "# Benchmarks",
        "For teams that compare queues or plan for many jobs. `python -m benchmarks` writes this page; "
        "`benchmarks/README.md` in the checkout explains the method and its limits. Compare ratios within this "
        "page, not figures from other machines or days. [Plan for scale](scale.md) has what a large fleet costs.",
        f"- {run.date}, {run.rounds} {'interleaved rounds' if run.rounds > 1 else 'round'}; medians, the least "
        f"and the most in brackets{' (a quick run: fewer jobs)' if run.quick else ''}\n"
        f"- {run.machine}\n- {run.server}\n- "
        + ", ".join(
            f"{'floor: redis-py' if name == FLOOR else name} {run.versions[name]}" for name in run.versions
        ),
        "![Drain, push, latency and CPU, redisjobs beside its peers](benchmarks.svg)",
        "## Beside the best peer",
        comparison(run.samples),
        "## Where redisjobs is slower, or misses its target",
        "\n".join(f"- {line}" for line in lost) if lost else "Nowhere in this run.",
        *(["## Beside the past", *past] if past else []),
        "## Every system",
        everything(run.samples),
        *prices(run),
    ]
    if run.failures:
        failed = "\n".join(f"- {system}, {measure}: {reason}" for system, measure, reason in run.failures)
        parts += ["## Not measured", failed]
    for what, title in PARTS.items():
        if what in run.beside:
            parts += [f"## {title}", run.beside[what]]
    return "\n\n".join(parts) + "\n"


def machine() -> str:
    """Processor, cores, system and Python, on one line."""
    model = platform.processor() or platform.machine()
    try:
        info = Path("/proc/cpuinfo").read_text()
        model = next(line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name"))
        cores = info.count("\nprocessor") + info.startswith("processor")
    except (OSError, StopIteration):
        cores = 0
    return f"{model}, {cores or '?'} cores, {platform.system()} {platform.release()}"


# The drawing: one panel a row, one bar a system, a whisker from the least to the most.

DRAWN = ("drain_1", "drain_2", "push_flight", "push_bulk", "worker_cpu", "latency_p50", "late_p50", "memory")
_WIDTH, _LABEL, _BAR, _GAP, _HEAD = 420, 100, 16, 6, 34
_STYLE = """
text { font: 12px system-ui, sans-serif; fill: #24292f } .title { font-weight: 600 } .value { fill: #57606a }
.bar { fill: #8c959f } .us { fill: #0969da } .floor { fill: #d0d7de }
.whisker { fill: none; stroke: #24292f; stroke-width: 1.5 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .value { fill: #9198a1 }
  .bar { fill: #6e7681 } .us { fill: #4493f8 } .floor { fill: #3d444d }
  .whisker { stroke: #e6edf3 }
}
"""


def drawing(samples: Samples) -> str:
    """`docs/benchmarks.svg`: two columns of panels, readable on light and on dark."""
    rows = [row for row in ROWS if row.key in DRAWN and samples.get(row.key)]
    parts, y = [], 0
    for at in range(0, len(rows), 2):
        panels = [_panel(row, samples[row.key]) for row in rows[at : at + 2]]
        parts += [
            f'<g transform="translate({x * (_WIDTH + 40)} {y})">{body}</g>' for x, (body, _) in enumerate(panels)
        ]
        y += max(height for _, height in panels) + 20
    width = 2 * _WIDTH + 40
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-10 0 {width + 20} {y}" role="img">\n'
        f"<title>redisjobs beside its peers</title><style>{_STYLE}</style>\n" + "\n".join(parts) + "\n</svg>\n"
    )


def _panel(row: Row, measured: dict[str, list[float]]) -> tuple[str, int]:
    names = [name for name in (US, *PEER_NAMES, FLOOR) if measured.get(name)]
    figures = {name: [value * row.scale for value in measured[name]] for name in names}
    names.sort(key=lambda name: statistics.median(figures[name]), reverse=row.better == "more")
    room = _WIDTH - _LABEL - 60
    most = max(max(values) for values in figures.values()) or 1.0
    better = f"{row.unit}, {row.better} is better"
    parts = [
        f'<text class="title" y="18">{escape(row.label)} <tspan class="value">({escape(better)})</tspan></text>'
    ]
    for number_of, name in enumerate(names):
        y = _HEAD + number_of * (_BAR + _GAP)
        middle, least, top = statistics.median(figures[name]), min(figures[name]), max(figures[name])
        kind = {US: "bar us", FLOOR: "bar floor"}.get(name, "bar")
        wide = middle / most * room
        parts.append(f'<text x="{_LABEL - 8}" y="{y + 12}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<rect class="{kind}" x="{_LABEL}" y="{y}" width="{wide:.1f}" height="{_BAR}" rx="2"/>')
        if top > least:
            left, right, mid = _LABEL + least / most * room, _LABEL + top / most * room, y + _BAR / 2
            ends = f"M{left:.1f} {mid - 4}v8M{right:.1f} {mid - 4}v8"
            parts.append(f'<path class="whisker" d="M{left:.1f} {mid}H{right:.1f}{ends}"/>')
        x = _LABEL + max(middle, top) / most * room + 6
        parts.append(f'<text class="value" x="{x:.1f}" y="{y + 12}">{number(middle)}</text>')
    return "".join(parts), _HEAD + len(names) * (_BAR + _GAP)

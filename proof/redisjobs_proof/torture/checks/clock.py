"""Tells which times the server's clock showed, while faults set it ahead and back. Pure."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from redisjobs.events.recording import Line


class Clock:
    """The clocks of the databases, by the recorded steps; `lines` are in order of time."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self._steps: defaultdict[int, list[tuple[float, float, float]]] = defaultdict(list)
        for line in lines:
            if line["what"] == "clock":
                self._steps[line["db"]].append((line["asked"], line["at"], line["seconds"]))

    def earliest(self, db: int, since: float, until: float) -> float:
        """Return the earliest time that a clock showed in a span."""
        return min([since + self._ahead(db, since), *self._said(db, since, until)])

    def latest(self, db: int, since: float, until: float) -> float:
        """Return the latest time that a clock showed in a span."""
        return max([until + self._ahead(db, until), *self._said(db, since, until)])

    def when(self, db: int, said: float, since: float) -> float:
        """Return when a clock first showed this time, from `since` on."""
        steps = [(0.0, 0.0, 0.0), *self._steps[db]]
        ends = [asked for asked, _, _ in steps[1:]] + [float("inf")]
        times = [
            said - seconds
            for (_, at, seconds), end in zip(steps, ends, strict=True)
            if max(at, since) <= said - seconds <= end
        ]
        return min(times, default=said)

    def _ahead(self, db: int, at: float) -> float:
        """Return by how many seconds a clock was ahead."""
        return next((seconds for _, done, seconds in reversed(self._steps[db]) if done <= at), 0.0)

    def _said(self, db: int, since: float, until: float) -> Iterator[float]:
        """Yield the times that a clock showed just before and just after each step in a span."""
        before = 0.0
        for asked, at, seconds in self._steps[db]:
            if asked <= until and at >= since:
                yield from (asked + before, at + before, asked + seconds, at + seconds)
            before = seconds

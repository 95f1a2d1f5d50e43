"""Measures how long recovery took after each fault. Pure."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from redisjobs.events.recording import Line

_STUCK = 20.0  # seconds without a start after which a worker counts as stuck


@dataclass(slots=True)
class Recovery:
    """The recoveries from one kind of fault.

    Attributes:
        times: How often the fault happened.
        seconds: The length of each recovery without another fault of all workers meanwhile.
        disturbed: The length of each recovery with such a fault.
    """

    times: int = 0
    seconds: list[float] = field(default_factory=list)
    disturbed: list[float] = field(default_factory=list)


def measure(lines: Sequence[Line]) -> tuple[dict[str, Recovery], list[str]]:
    """Return the recoveries by the fault's name, and the workers that did not recover at all, in words."""
    faults = [line for line in lines if line["what"] == "fault"]
    found: defaultdict[str, Recovery] = defaultdict(Recovery)
    starts = _Starts(lines)
    stuck: list[str] = []
    for fault in faults:
        recovery = found[fault["name"]]
        recovery.times += 1
        for since, seconds in _recoveries(stuck, starts, fault, faults):
            if seconds is not None:
                clear = not any(_disturbs(other, fault, since, since + seconds) for other in faults)
                (recovery.seconds if clear else recovery.disturbed).append(seconds)
        if fault.get("silent"):
            _workers_again(stuck, starts, fault, faults, fault["pids"])
    return dict(found), stuck


def _recoveries(
    stuck: list[str], starts: "_Starts", fault: Line, faults: Sequence[Line]
) -> Iterable[tuple[float, float | None]]:
    """Yield when each recovery began, and its seconds; None if nothing had to recover."""
    match fault["recovery"]:
        case "killers":  # from each death that one of these jobs caused
            for death in (line for line in starts.lines if line["job"] in fault["jobs"]):
                yield death["at"], starts.jobs_again([death["pid"]], death["at"])
        case "jobs":
            yield fault["began"], starts.jobs_again(fault["pids"], fault["began"])
        case "workers":
            yield fault["ended"], _workers_again(stuck, starts, fault, faults, fault["workers"])


def _disturbs(other: Line, fault: Line, since: float, until: float) -> bool:
    about_all = other is not fault and other["recovery"] == "workers"
    return about_all and other["began"] <= until and other["ended"] + other["lingers"] >= since


def _workers_again(
    stuck: list[str], starts: "_Starts", fault: Line, faults: Sequence[Line], pids: Sequence[int]
) -> float | None:
    """Return the seconds from a fault's end until the last of the surviving workers has started a job."""
    last = None
    for pid in pids:
        if not starts.before(pid, fault["began"]):
            continue  # it had not started any job yet
        again = starts.after(pid, fault["ended"])
        if again is not None:
            last = max(last or 0.0, again - fault["ended"])
            continue
        later = [other for other in faults if other is not fault and other["began"] >= fault["began"]]
        hit = [other["began"] for other in later if pid in other["pids"]]
        watched = min([*hit, starts.poisoned.get(pid, starts.over)]) - fault["ended"]
        if watched > _STUCK:
            stuck.append(f"process {pid} has started nothing in {watched:.0f} s since '{fault['name']}' was over")
    return last


class _Starts:
    """Starts of handlers, by process and by job.

    Attributes:
        lines: All starts, in order.
        poisoned: When each process started a job that kills it.
        over: When the last job was pushed: later there may be no job to start.
    """

    def __init__(self, lines: Sequence[Line]) -> None:
        self.lines = [line for line in lines if line["what"] == "start"]
        self.poisoned = {line["pid"]: line["at"] for line in self.lines if line["name"] == "Poison"}
        self.over = max((line["at"] for line in lines if line["what"] == "pushed"), default=0.0)
        self._by_pid: defaultdict[int, list[float]] = defaultdict(list)
        self._by_job: defaultdict[tuple[int, str], list[Line]] = defaultdict(list)
        self._held: defaultdict[int, list[Line]] = defaultdict(list)
        for line in self.lines:
            self._by_pid[line["pid"]].append(line["at"])
            self._by_job[line["db"], line["job"]].append(line)
            self._held[line["pid"]].append(line)
        self._settled: defaultdict[tuple[str, int, int], list[float]] = defaultdict(list)
        for line in lines:
            if line["what"] == "settled":
                self._settled[line["job"], line["pid"], line["attempt"]].append(line["at"])

    def before(self, pid: int, at: float) -> bool:
        """Whether the process had started a job by then."""
        return bool(self._by_pid[pid]) and self._by_pid[pid][0] < at

    def after(self, pid: int, at: float) -> float | None:
        """Return when the process started its next job."""
        times = self._by_pid[pid]
        index = bisect_left(times, at)
        return times[index] if index < len(times) else None

    def _settled_after(self, held: Line) -> float | None:
        """Return when a run was settled: a job that waits in its handler has several runs of one attempt."""
        times = self._settled[held["job"], held["pid"], held["attempt"]]
        return next((at for at in times if at >= held["at"]), None)

    def jobs_again(self, pids: Sequence[int], at: float) -> float | None:
        """Return the seconds until the last job that these processes held was started elsewhere.

        Jobs that had ended by then, unknown to the process that was killed, start no more and do not count.
        """
        last = None
        for pid in pids:
            for held in self._held[pid]:
                settled = self._settled_after(held)
                if held["at"] > at or (settled is not None and settled <= at):
                    continue
                of_it = self._by_job[held["db"], held["job"]]
                later = [line["at"] for line in of_it if line["at"] > at and line["pid"] != pid]
                if later:
                    last = max(last or 0.0, later[0] - at)
        return last

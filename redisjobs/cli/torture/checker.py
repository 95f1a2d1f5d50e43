"""What the journals and the store say together: was anything lost, done twice, or left behind? Pure."""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from redisjobs.cli.torture.store import Final

Line = Mapping[str, Any]

MAX_DELIVERIES = 3
_LATE = 3.0  # seconds after a fault in which a job may run again because of it: a lease, and the look for it
_POISONED = 0.5  # seconds that a process may live on which has started a job that kills it
_STUCK = 20.0  # seconds after which a worker that has started nothing is stuck
_BAD = ("undecodable", "unknown name")
_DEATHS: Mapping[str, Sequence[str]] = {
    "Flaky": ("failed", "worker lost"),
    "Hopeless": ("failed", "worker lost"),
    "by hand": (*_BAD, "worker lost"),
}
"""Why a job of a name may be a dead letter; those not named: only as `worker lost`."""


@dataclass(slots=True)
class Recovery:
    """One kind of fault.

    Attributes:
        times: How often it happened.
        seconds: How long recovery took each time there was something to recover from, and no other fault that is
            about all was in force meanwhile.
        disturbed: The same where one was.
    """

    times: int = 0
    seconds: list[float] = field(default_factory=list)
    disturbed: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Verdict:
    """What was found.

    Attributes:
        pushed: Jobs that somebody tried to push.
        acknowledged: Those he was told are on the queue.
        by_hand: Entries put in past the producers.
        done: Jobs that ended so.
        cancelled: Jobs that ended so.
        dead: Dead letters by reason.
        lost: Jobs that were acknowledged and never ended.
        left: What is still in the store.
        stolen: Settlements that were accepted from a worker that did not own the job any more.
        twice: Jobs that ended more than once.
        wrong: All else that must not be.
        full: How often a producer was told that the queue is full.
        refused: Settlements that were refused: LEASE_LOST.
        again: Jobs that were started again without having failed, by cause.
        duplicates: Jobs whose handler ran to its end more than once, by cause.
        faults: By name.
    """

    pushed: int = 0
    acknowledged: int = 0
    by_hand: int = 0
    done: int = 0
    cancelled: int = 0
    dead: dict[str, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    stolen: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    full: int = 0
    refused: int = 0
    again: dict[str, int] = field(default_factory=dict)
    duplicates: dict[str, int] = field(default_factory=dict)
    faults: dict[str, Recovery] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether all is well."""
        return not (self.lost or self.left or self.stolen or self.twice or self.wrong)


class _Story:
    """All that is written of one job."""

    def __init__(self) -> None:
        self.name = ""
        self.attempted = self.acknowledged = self.by_hand = False
        self.holder = ""  # the job that had its unique key, so that it was not added
        self.cancel_asked = self.cancelled = False
        self.starts: list[Line] = []
        self.ends: list[Line] = []
        self.settled: list[Line] = []

    @property
    def done(self) -> list[Line]:
        """Runs that went to their end."""
        return [line for line in self.ends if line["result"] == "done"]

    @property
    def outcomes(self) -> list[Line]:
        """Settlements that were accepted and ended the job."""
        return [line for line in self.settled if line["word"] == "CANCELLED" or _is(line, "Ack", "DeadLetter")]


def _is(settled: Line, *fates: str) -> bool:
    return settled["word"] == "OK" and settled["fate"] in fates


def check(lines: Iterable[Line], final: Final) -> Verdict:
    """Judge a run.

    Args:
        lines: What was written down, of all processes, in any order.
        final: What is in the store now, all faults undone and all work drained.
    """
    ordered = sorted(lines, key=lambda line: line["at"])
    verdict = Verdict(left=list(final.left))
    faults = [line for line in ordered if line["what"] == "fault"]
    stories = _stories(ordered)
    verdict.full = sum(line["what"] == "refused" and line["full"] for line in ordered)
    _judge_ends(verdict, stories, final)
    for job_id, story in stories.items():
        verdict.stolen += _stolen(job_id, story)
    stalls = [line for line in ordered if line["what"] == "stall"]
    _judge_runs(verdict, stories, _Causes([*faults, *stalls], stories))
    _measure(verdict, ordered, faults)
    return verdict


def _stories(lines: Sequence[Line]) -> dict[str, _Story]:
    stories: defaultdict[str, _Story] = defaultdict(_Story)
    for line in lines:
        if "job" not in line:
            continue
        story = stories[line["job"]]
        match line["what"]:
            case "push":
                story.attempted, story.name = True, line["name"]
            case "pushed":
                story.acknowledged, story.holder = True, line["holder"]
            case "by hand":
                story.by_hand, story.name = True, "by hand"
            case "cancel":
                story.cancel_asked = True
            case "cancelled":
                story.cancelled = story.cancelled or line["word"] == "CANCELLED"
            case "start":
                story.starts.append(line)
            case "end":
                story.ends.append(line)
            case "settled":
                story.settled.append(line)
            case "ended":
                story.cancelled = story.cancelled or line["cancelled"]
    return stories


def _judge_ends(verdict: Verdict, stories: Mapping[str, _Story], final: Final) -> None:
    """Every job that is known to have been on the queue has ended, once, as it should; the counters agree."""
    arrived = unsure = surely_cancelled = 0
    for job_id, story in stories.items():
        verdict.pushed += story.attempted
        verdict.acknowledged += story.acknowledged
        verdict.by_hand += story.by_hand
        if not (story.attempted or story.by_hand):
            verdict.wrong.append(f"{job_id} ran, and nobody had pushed it")
        if story.holder:
            if story.starts or job_id in final.dead:
                verdict.wrong.append(f"{job_id} ran, though its push was told that {story.holder} holds its key")
            continue
        there = bool(story.acknowledged or story.starts or story.settled or job_id in final.dead)
        if story.by_hand or not there:
            continue
        arrived += 1
        sure = story.cancelled or any(line["cancelled"] for line in story.outcomes)
        surely_cancelled += sure
        acked = any(_is(line, "Ack") and not line["cancelled"] for line in story.outcomes)
        unsure += story.cancel_asked and not (sure or acked or job_id in final.dead)
        verdict.twice += _twice(job_id, story, dead=job_id in final.dead, cancelled=sure, acked=acked)
        if job_id in final.dead:
            continue
        if sure:
            verdict.cancelled += 1
        elif acked or (story.done and job_id not in final.located):
            verdict.done += 1
            if not story.done:
                verdict.wrong.append(f"{job_id} was settled as done, and its handler never ended")
        elif story.cancel_asked and job_id not in final.located:
            verdict.cancelled += 1
        elif job_id not in final.located:
            verdict.lost.append(job_id)
    _judge_dead(verdict, stories, final)
    _judge_totals(verdict, final, arrived, surely_cancelled, unsure)


def _twice(job_id: str, story: _Story, *, dead: bool, cancelled: bool, acked: bool) -> list[str]:
    ways = [way for way, so in {"dead": dead, "cancelled": cancelled, "done": acked}.items() if so]
    if len(ways) > 1:
        return [f"{job_id} ended as {' and as '.join(ways)}"]
    if len(story.outcomes) > 1:
        workers = " and of ".join(line["worker"] for line in story.outcomes)
        return [f"{job_id}: settlements of {workers} were accepted"]
    return []


def _judge_dead(verdict: Verdict, stories: Mapping[str, _Story], final: Final) -> None:
    verdict.dead = dict(sorted(Counter(final.dead.values()).items()))
    for job_id, reason in final.dead.items():
        name = stories[job_id].name if job_id in stories else "?"
        if reason not in _DEATHS.get(name, ("worker lost",)):
            verdict.wrong.append(f"{job_id} ({name}) is a dead letter: {reason}")
    for job_id, story in stories.items():
        if story.by_hand and job_id not in final.dead:
            verdict.lost.append(job_id)
        if story.name == "Hopeless" and story.done:
            verdict.wrong.append(f"{job_id} was to fail, and did not")
        if story.name == "Poison" and len(story.starts) > MAX_DELIVERIES:
            verdict.wrong.append(f"{job_id} kills its workers, and was started {len(story.starts)} times")


def _judge_totals(verdict: Verdict, final: Final, arrived: int, cancelled: int, unsure: int) -> None:
    total = Counter(final.totals)
    if total["pushed"] != arrived:
        verdict.wrong.append(f"the store counts {total['pushed']} pushes; {arrived} jobs were seen")
    if total["dead"] != len(final.dead):
        verdict.wrong.append(f"the store counts {total['dead']} dead; there are {len(final.dead)} dead letters")
    ended = total["completed"] + total["cancelled"] + total["dead"]
    if ended != total["pushed"] + verdict.by_hand:
        verdict.wrong.append(
            f"the store counts {total['completed']} completed + {total['cancelled']} cancelled + {total['dead']} "
            f"dead = {ended}; {total['pushed']} were pushed and {verdict.by_hand} put in by hand"
        )
    if not cancelled <= total["cancelled"] <= cancelled + unsure:
        told = f"from {cancelled} to {cancelled + unsure}" if unsure else str(cancelled)
        verdict.wrong.append(f"the store counts {total['cancelled']} cancelled; it must be {told}")


def _stolen(job_id: str, story: _Story) -> Iterable[str]:
    """Settlements that were accepted though somebody else had started the job before they were sent.

    A job's leases come in the order (attempt, delivery). A release gives the delivery back: then two workers may
    have the same, one after the other.
    """
    for settled in story.settled:
        if settled["word"] == "LEASE_LOST" or not (settled["sent_at"] and settled["attempt"]):
            continue  # of what was released unread nobody knows the attempt
        lease = (settled["attempt"], settled["deliveries"])
        mine = [line["at"] for line in story.starts if line["worker"] == settled["worker"]]
        began = max((at for at in mine if at <= settled["sent_at"]), default=0.0)
        for start in story.starts:
            theirs = (start["attempt"], start["deliveries"])
            later = theirs > lease or (theirs == lease and start["at"] > began)
            if start["worker"] != settled["worker"] and later and start["at"] < settled["sent_at"]:
                yield (
                    f"{job_id}: {settled['worker']} settled attempt {lease[0]}, delivery {lease[1]} "
                    f"{settled['sent_at'] - start['at']:.3f} s after {start['worker']} had started it"
                )
                break


# Runs that came again, and why


def _judge_runs(verdict: Verdict, stories: Mapping[str, _Story], causes: "_Causes") -> None:
    again: Counter[str] = Counter()
    duplicates: Counter[str] = Counter()
    for job_id, story in stories.items():
        verdict.refused += sum(line["word"] == "LEASE_LOST" for line in story.settled)
        for first, second in zip(story.starts, story.starts[1:], strict=False):
            if first["attempt"] == second["attempt"]:
                # Of both: one that was held up may start what it was given long ago after its new owner.
                cause = causes.of((first["pid"], second["pid"]), first["at"], second["at"])
                again[cause] += 1
                if cause == "none":
                    verdict.wrong.append(f"{job_id} was started again, and no fault was in force")
        if len(story.done) > 1:
            first, second = story.starts[0], story.starts[-1]
            pids = [line["pid"] for line in story.starts]
            duplicates[causes.of(pids, first["at"], second["at"])] += 1
    verdict.again, verdict.duplicates = dict(again.most_common()), dict(duplicates.most_common())


class _Causes:
    """Which fault made a job run again. That this machine stood still is one, too."""

    def __init__(self, faults: Sequence[Line], stories: Mapping[str, _Story]) -> None:
        self._faults = sorted(faults, key=lambda line: line["began"])
        self._poison = {
            start["pid"]: start["at"]
            for story in stories.values()
            if story.name == "Poison"
            for start in story.starts
        }

    def of(self, pids: Sequence[int], since: float, until: float) -> str:
        """The cause for a job that was begun at `since` to be started again at `until`; `none` for none.

        What hit one of the processes that began it comes first, then what hit all.
        """
        if any(since - _POISONED <= self._poison.get(pid, 0.0) <= until for pid in pids):
            return "poison job"
        hit = [
            fault
            for fault in self._faults
            if fault["began"] <= until and fault["ended"] + fault["lingers"] + _LATE >= since
        ]
        for fault in hit:
            if not set(pids).isdisjoint(fault["pids"]):
                return str(fault["name"])
        # The last to begin before the end; those of one process were not about this one.
        common = [fault for fault in hit if fault["recovery"] == "workers"]
        return str(common[-1]["name"]) if common else "none"


# How long recovery took


def _measure(verdict: Verdict, lines: Sequence[Line], faults: Sequence[Line]) -> None:
    starts = _Starts(lines)
    for fault in faults:
        recovery = verdict.faults.setdefault(fault["name"], Recovery())
        recovery.times += 1
        for since, seconds in _recoveries(verdict, starts, fault, faults):
            if seconds is not None:
                clear = not any(_disturbs(other, fault, since, since + seconds) for other in faults)
                (recovery.seconds if clear else recovery.disturbed).append(seconds)


def _recoveries(
    verdict: Verdict, starts: "_Starts", fault: Line, faults: Sequence[Line]
) -> Iterable[tuple[float, float | None]]:
    """From when on, and how long; None where there was nothing to recover from."""
    if fault["name"] == "poison job":
        for death in (line for line in starts.lines if line["job"] in fault["jobs"]):
            yield death["at"], starts.jobs_again([death["pid"]], death["at"])
    elif fault["recovery"] == "jobs":
        yield fault["began"], starts.jobs_again(fault["pids"], fault["began"])
    elif fault["recovery"] == "workers":
        yield fault["ended"], _workers_again(verdict, starts, fault, faults)


def _disturbs(other: Line, fault: Line, since: float, until: float) -> bool:
    about_all = other is not fault and other["recovery"] == "workers"
    return about_all and other["began"] <= until and other["ended"] + other["lingers"] >= since


def _workers_again(verdict: Verdict, starts: "_Starts", fault: Line, faults: Sequence[Line]) -> float | None:
    """Seconds from a fault's end until the last of those that lived through it has started a job."""
    last = None
    for pid in fault["workers"]:
        if not starts.before(pid, fault["began"]):
            continue  # it was not at work yet
        again = starts.after(pid, fault["ended"])
        if again is not None:
            last = max(last or 0.0, again - fault["ended"])
            continue
        hit = [other["began"] for other in faults if pid in other["pids"] and other["began"] >= fault["began"]]
        watched = min([*hit, starts.poisoned.get(pid, starts.over)]) - fault["ended"]
        if watched > _STUCK:
            verdict.wrong.append(
                f"process {pid} has started nothing in {watched:.0f} s since '{fault['name']}' was over"
            )
    return last


class _Starts:
    """Starts of handlers, by process and by job.

    Attributes:
        lines: All of them, in order.
        poisoned: When each process started a job that kills it.
        over: When the last job was pushed: from then on there may be nothing to start.
    """

    def __init__(self, lines: Sequence[Line]) -> None:
        self.lines = [line for line in lines if line["what"] == "start"]
        self.poisoned = {line["pid"]: line["at"] for line in self.lines if line["name"] == "Poison"}
        self.over = max((line["at"] for line in lines if line["what"] == "pushed"), default=0.0)
        self._by_pid: defaultdict[int, list[float]] = defaultdict(list)
        self._by_job: defaultdict[str, list[Line]] = defaultdict(list)
        self._held: defaultdict[int, list[Line]] = defaultdict(list)
        for line in self.lines:
            self._by_pid[line["pid"]].append(line["at"])
            self._by_job[line["job"]].append(line)
            self._held[line["pid"]].append(line)
        self._settled = {
            (line["job"], line["pid"], line["attempt"]): line["at"] for line in lines if line["what"] == "settled"
        }

    def before(self, pid: int, at: float) -> bool:
        """Whether the process had started a job by then."""
        return bool(self._by_pid[pid]) and self._by_pid[pid][0] < at

    def after(self, pid: int, at: float) -> float | None:
        """When the process started the next job from then on."""
        times = self._by_pid[pid]
        index = bisect_left(times, at)
        return times[index] if index < len(times) else None

    def jobs_again(self, pids: Sequence[int], at: float) -> float | None:
        """Seconds from then until the last job in the hands of these processes was started elsewhere.

        Those that had ended by then, unknown to the one that was killed, start no more: they don't count.
        """
        last = None
        for pid in pids:
            for held in self._held[pid]:
                settled = self._settled.get((held["job"], pid, held["attempt"]))
                if held["at"] > at or (settled is not None and settled <= at):
                    continue
                later = [
                    line["at"] for line in self._by_job[held["job"]] if line["at"] > at and line["pid"] != pid
                ]
                if later:
                    last = max(last or 0.0, later[0] - at)
        return last

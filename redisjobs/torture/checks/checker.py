"""What the recordings and the store say together: was anything lost, done twice, or left behind? Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from redisjobs.events.recording import Line
from redisjobs.torture.checks.answers import misanswered
from redisjobs.torture.checks.causes import FAILED, MAX_DELIVERIES, NONE, Causes, Leases, pairs
from redisjobs.torture.checks.clock import Clock
from redisjobs.torture.checks.fences import unfenced
from redisjobs.torture.checks.follow_ups import follow_up
from redisjobs.torture.checks.latest import outdated
from redisjobs.torture.checks.limits import over_the_limit
from redisjobs.torture.checks.order import disorder
from redisjobs.torture.checks.recovery import Recovery, measure
from redisjobs.torture.checks.slots import misfired, take_as_pushed
from redisjobs.torture.checks.stops import started_though_stopped
from redisjobs.torture.checks.stories import Key, Run, Story, tell, was
from redisjobs.torture.checks.waits import late
from redisjobs.torture.fleet.store import Final, Letter

_GIVEN = 1.0  # seconds from when a job is given until it begins, where the network is slow
_STARTED = 0.15  # seconds from when a job is given until it begins, where many processes want to run at once
_KILLERS = ("Poison",)
_UNSEEN = 2  # jobs of a database, at most, that die with one who was given them and had not yet started them
_LOCKED = 1.0  # seconds that one step of a process may keep its other threads from running
_DEATHS: Mapping[str, Sequence[str]] = {
    "Poison": ("worker lost", "failed"),  # the latter where it was first to hear of the cancel that it sent
    "Flaky": ("failed",),
    "Hopeless": ("failed",),
    "Raiser": ("failed",),
    "ThreadRaiser": ("failed",),
    "by hand": ("failed", "undecodable", "unknown name", "expired"),
}
"""Why a job of a name may be a dead letter. Any may as `worker lost`, if a fault took the last worker it had."""


@dataclass(slots=True)
class Verdict:
    """What was found.

    Attributes:
        pushed: Jobs that somebody tried to push.
        acknowledged: Those he was told are on the queue.
        slots: Jobs of schedules among these, one for each slot that was fired.
        left_out: Slots that had no job, as a later one had.
        by_hand: Entries put in past the producers.
        follow_ups: Jobs that handlers pushed as their own ended.
        results: Jobs whose results were to be kept.
        answers: What those were told who waited for results: `result`, or the error.
        watches: Jobs that somebody watched until they had ended.
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
        again: Jobs that were started again without having failed, by the fault that hit the run before; `none`
            excuses nothing.
        duplicates: Jobs whose handler ran to its end more than once, by the same.
        bereft: Jobs that kill nobody and are dead letters, `worker lost`, by the fault that took the last worker.
        faults: By name.
    """

    pushed: int = 0
    acknowledged: int = 0
    slots: int = 0
    left_out: int = 0
    by_hand: int = 0
    follow_ups: int = 0
    results: int = 0
    answers: dict[str, int] = field(default_factory=dict)
    watches: int = 0
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
    bereft: dict[str, int] = field(default_factory=dict)
    faults: dict[str, Recovery] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether all is well."""
        return not (self.lost or self.left or self.stolen or self.twice or self.wrong)


def check(lines: Iterable[Line], finals: Sequence[Final], lease: float = 2.0) -> Verdict:
    """Judge a run.

    Args:
        lines: What was written down, of all processes, in any order.
        finals: What is in each database now, all faults undone and all work drained.
        lease: Seconds that a worker's lease lasts which has not said how long its own is.
    """
    ordered = sorted(lines, key=lambda line: line["at"])
    verdict = Verdict()
    stories = tell(ordered)
    databases = {line["pid"]: line["db"] for line in ordered if "pid" in line}
    faults = [line for line in ordered if line["what"] in ("fault", "stall")]
    leases = Leases(lease, {line["pid"]: line["lease"] for line in ordered if line.get("lease")})
    clock = Clock(ordered)
    causes = Causes(faults, stories, leases, databases)
    verdict.slots = take_as_pushed(stories, finals)
    verdict.follow_ups, strange = follow_up(stories, ordered, finals)
    verdict.left_out = sum(info.missed for final in finals for info in final.schedules)
    verdict.full = sum(line["what"] == "refused" and line["full"] for line in ordered)
    for db, final in enumerate(finals):
        mine = {key: story for key, story in stories.items() if key[0] == db}
        _Judge(verdict, mine, final, causes, clock, ordered, db).judge()
    verdict.dead = dict(sorted(Counter(letter.reason for final in finals for letter in final.letters).items()))
    for counts in ("again", "duplicates", "bereft"):
        setattr(verdict, counts, dict(Counter(getattr(verdict, counts)).most_common()))
    verdict.faults, stuck = measure(ordered)
    verdict.results = sum(len(final.standings) for final in finals)
    told = (line["error"] or "result" for line in ordered if line["what"] == "answered")
    verdict.answers = dict(Counter(told).most_common())
    verdict.watches = sum(line["what"] == "watched" for line in ordered)
    verdict.wrong += [
        *strange,
        *misanswered(stories, finals, faults),
        *misfired(stories, finals),
        *outdated(ordered, finals),
        *started_though_stopped(stories, ordered),
        *over_the_limit(stories, ordered),
        *stuck,
        *late(stories, ordered, leases),
        *disorder(stories, faults, clock),
        *_locked(ordered),
    ]
    verdict.wrong += unfenced(ordered, faults, leases)
    return verdict


def _locked(lines: Iterable[Line]) -> Iterable[str]:
    """Processes that computed for so long, with the interpreter locked, that nothing else of them got to run."""
    for line in lines:
        if line["what"] == "stall" and line.get("busy"):
            seconds = line["ended"] - line["began"]
            if seconds > _LOCKED:
                yield f"process {line['pid']} kept the interpreter locked for {seconds:.1f} s"


class _Judge:
    """Judges what happened in one database."""

    def __init__(
        self,
        verdict: Verdict,
        stories: Mapping[Key, Story],
        final: Final,
        causes: Causes,
        clock: Clock,
        lines: Sequence[Line],
        db: int,
    ) -> None:
        self._verdict = verdict
        self._db = db
        self._stories = stories
        self._final = final
        self._causes = causes
        self._fenced = {
            line["worker"]: line["at"] for line in reversed(lines) if line["what"] == "fenced" and line["db"] == db
        }
        self._destroyed = [
            line["began"] for line in lines if line.get("forgets_deliveries") and line["db"] in (None, db)
        ]
        self._letters = [
            (replace(letter, failed_at=clock.told(db, letter.failed_at, _begun_last(stories.get(key)))), key)
            for letter, key in _letters(stories, final, db)
        ]
        self._dead = Counter(key for _, key in self._letters)
        self._arrived = self._maybe = self._cancelled = self._unknown = self._by_hand = self._unseen = 0

    def judge(self) -> None:
        verdict = self._verdict
        verdict.left += self._final.left
        for key, story in self._stories.items():
            verdict.pushed += story.attempted
            verdict.acknowledged += story.acknowledged
            verdict.refused += sum(line["reply"] == "LEASE_LOST" for line in story.settled)
            if story.runs and not (story.attempted or story.by_hand):
                verdict.wrong.append(f"{story.label} ran, and nobody had pushed it")
            if story.by_hand:
                self._by_hand += not story.counted
                self._arrived += story.counted
                self._judge_by_hand(key, story)
            elif (story.attempted or story.runs) and self._was_added(key, story):
                self._judge_end(key, story)
            self._judge_runs(story)
            counted_anew = [*self._destroyed, *story.renewed]
            verdict.stolen += _stolen(story, counted_anew) or _settled_by_fenced(story, self._fenced)
            verdict.wrong += self._refused(story)
            self._judge_killer(story)
        verdict.by_hand += self._by_hand
        self._judge_letters()
        self._judge_totals()

    # What became of each job

    def _was_added(self, key: Key, story: Story) -> bool:
        """Whether the store took a push as a new job; it may have been wrong to, or to say so."""
        ran = bool(story.runs or self._dead[key])
        wrong = self._verdict.wrong
        if story.holder:
            if ran:
                wrong.append(f"{story.label} ran, though its push was told that {story.holder} holds its key")
            return False
        if story.expected == "there":
            if ran:
                wrong.append(f"{story.label} ran, though a job had that id when it was pushed")
            elif story.added:
                wrong.append(f"{story.label} was told to be a new job, though a job had that id")
            return ran
        if story.added is False:
            wrong.append(f"{story.label} was told to be there already, though no job had that id any more")
            return ran
        there = ran or story.was_there
        self._maybe += story.cancel_asked and not there  # nobody knows whether it was there to be cancelled
        return there

    def _judge_end(self, key: Key, story: Story) -> None:
        """Every job that is known to have been on the queue has ended, once, as it should."""
        verdict = self._verdict
        dead, located = bool(self._dead[key]), story.job in self._final.located
        told = story.cancelled or any(line["cancelled"] for line in story.outcomes)
        sure = told and story.cancel_asked
        acked = any(was(line, "Ack") and not line["cancelled"] for line in story.outcomes)
        self._arrived += 1
        self._cancelled += told
        self._unknown += story.cancel_asked and not (told or acked or dead)
        verdict.twice += _twice(story, dead=dead, cancelled=told, acked=acked)
        if dead:
            return
        if sure:
            verdict.cancelled += 1
        elif told:
            verdict.lost.append(f"{story.label}: cancelled, and nobody had asked for that")
        elif acked or (story.done and not located):
            verdict.done += 1
            if not story.done:
                verdict.wrong.append(f"{story.label} was settled as done, and its handler never ended")
            if story.name in ("Hopeless", "Raiser", "ThreadRaiser"):
                verdict.wrong.append(f"{story.label} was to fail, and did not")
        elif story.cancel_asked and not located:
            verdict.cancelled += 1
        elif not located:
            verdict.lost.append(story.label)

    def _judge_by_hand(self, key: Key, story: Story) -> None:
        """An entry ends as well: its handler runs to its end, or it is a dead letter."""
        dead = self._dead[key] > 0
        if dead and story.done and any(run.accepted for run in story.done):
            self._verdict.twice.append(f"{story.label}, put in by hand, ended as dead and as done")
        elif not dead and not story.done:
            self._verdict.lost.append(f"{story.label}, put in by hand")

    def _judge_runs(self, story: Story) -> None:
        """A job that ran again has failed before, or a fault excuses it: one that hit the very run before."""
        verdict, twice = self._verdict, ""
        for first, second in pairs(story):
            cause = self._causes.of(story, first, second)
            if cause != FAILED:
                verdict.again[cause] = verdict.again.get(cause, 0) + 1
            if first.done and not twice:
                twice = cause
            if cause == NONE:
                verdict.wrong.append(
                    f"{story.label} ({story.name}) was started again, and no fault had hit it: "
                    f"{_who(first)}, then {_who(second)} {second.at - first.at:.3f} s later"
                )
        if len(story.done) > 1:
            verdict.duplicates[twice] = verdict.duplicates.get(twice, 0) + 1
        if story.runs and not story.by_hand and (attempt := min(run.attempt for run in story.runs)) > 1:
            verdict.wrong.append(f"{story.label} ({story.name}) was started first as attempt {attempt}")

    def _judge_killer(self, story: Story) -> None:
        if story.name not in _KILLERS or not story.runs:
            return
        first, last = story.runs[0].at, story.runs[-1].at
        # Where the group was destroyed, nobody knows any more how often a job was delivered.
        lives = 1 + sum(first <= at <= last for at in self._destroyed)
        if len(story.runs) > MAX_DELIVERIES * lives:
            self._verdict.wrong.append(f"{story.label} kills its workers, and was started {len(story.runs)} times")

    def _refused(self, story: Story) -> Iterable[str]:
        """Outcomes that were refused to who was never fenced: nothing but that takes a job away from its worker.

        Also one that is sent again, as its answer was lost: it is answered as it was then.
        """
        for run in story.runs:
            settled = run.settled
            if settled is None or not run.refused or settled["worker"] in self._fenced:
                continue
            # Where the group was destroyed, whoever had the job before that may have been the first to end it; and
            # who was given it before may begin it after.
            began = min(other.at for other in story.runs) - _GIVEN
            if not any(began <= at <= settled["at"] for at in self._destroyed):
                again = "sent again, " if settled["resent"] else ""
                yield f"{story.label} ({story.name}) was refused to {_who(run)}, {again}though it was not fenced"

    # Dead letters and counters

    def _judge_letters(self) -> None:
        for letter, key in self._letters:
            story = self._stories.get(key, Story(job=letter.job))
            if letter.reason == "worker lost" and story.name not in _KILLERS:
                self._judge_bereft(story, letter)
            elif letter.reason not in _DEATHS.get(story.name, ()):
                self._verdict.wrong.append(
                    f"{story.label} ({story.name or '?'}) is a dead letter: {letter.reason}"
                )
        for key, times in self._dead.items():
            if times > 1 and key in self._stories:
                self._verdict.twice.append(f"{self._stories[key].label} is a dead letter {times} times")
        if self._unseen > _UNSEEN:
            self._verdict.wrong.append(
                f"{self._unseen} jobs are dead letters, worker lost, that their last worker had not started"
            )

    def _judge_bereft(self, story: Story, letter: Letter) -> None:
        """A job that kills nobody ends so only if faults took the last worker it had."""
        anew = (*self._destroyed, *story.renewed)
        counted_anew = max((at for at in anew if at <= letter.failed_at), default=0.0)
        runs = [run for run in story.runs if run.at >= counted_anew]
        last = max(runs, key=lambda run: run.lease[2], default=None)
        if last is not None and last.lease[2] >= (letter.deliveries or MAX_DELIVERIES):
            cause = self._causes.of_end(last, letter.failed_at)
        else:  # the one that had it last was given it, and never started it
            cause = self._causes.of_unseen(self._db, max((run.at for run in runs), default=0.0), letter.failed_at)
            self._unseen += 1
        self._verdict.bereft[cause] = self._verdict.bereft.get(cause, 0) + 1
        if cause == NONE:
            self._verdict.wrong.append(
                f"{story.label} ({story.name or '?'}) is a dead letter: worker lost; it kills nobody, "
                "and no fault took its last worker"
            )

    def _judge_totals(self) -> None:
        total, wrong = Counter(self._final.totals), self._verdict.wrong
        if not self._arrived <= total["pushed"] <= self._arrived + self._maybe:
            wrong.append(f"the store counts {total['pushed']} pushes; {self._arrived} jobs were seen")
        if total["dead"] != len(self._final.letters):
            wrong.append(
                f"the store counts {total['dead']} dead; there are {len(self._final.letters)} dead letters"
            )
        ended = total["completed"] + total["cancelled"] + total["dead"]
        if ended != total["pushed"] + self._by_hand:
            wrong.append(
                f"the store counts {total['completed']} completed + {total['cancelled']} cancelled + "
                f"{total['dead']} dead = {ended}; {total['pushed']} were pushed and {self._by_hand} put in by hand"
            )
        least, most = self._cancelled, self._cancelled + self._unknown + self._maybe
        if not least <= total["cancelled"] <= most:
            told = f"from {least} to {most}" if most > least else str(least)
            wrong.append(f"the store counts {total['cancelled']} cancelled; it must be {told}")


def _begun_last(story: Story | None) -> float:
    """When a job was started last; 0 if it never was."""
    return max((run.at for run in story.runs), default=0.0) if story is not None else 0.0


def _letters(stories: Mapping[Key, Story], final: Final, db: int) -> Iterable[tuple[Letter, Key]]:
    """Each dead letter, and whose it is."""
    by_id = {story.job: key for key, story in stories.items()}
    for letter in final.letters:
        key = (db, letter.mark or letter.job)
        yield letter, key if key in stories else by_id.get(letter.job, key)


def _was_released(run: Run, before: float) -> bool:
    """Whether its worker had handed it back by then, and that was accepted."""
    settled = run.settled
    return (
        settled is not None and settled["settlement"] == "Release" and not run.refused and settled["at"] <= before
    )


def _twice(story: Story, *, dead: bool, cancelled: bool, acked: bool) -> list[str]:
    ways = [way for way, so in {"dead": dead, "cancelled": cancelled, "done": acked}.items() if so]
    if len(ways) > 1:
        return [f"{story.label} ended as {' and as '.join(ways)}"]
    if len(story.outcomes) > 1:
        workers = " and of ".join(line["worker"] for line in story.outcomes)
        return [f"{story.label}: settlements of {workers} were accepted"]
    return []


def _settled_by_fenced(story: Story, fenced: Mapping[str, float]) -> list[str]:
    """Settlements that were accepted though their worker was seen to be fenced before they were sent."""
    found = []
    for settled in story.settled:
        late = settled["sent_at"] - fenced.get(settled["worker"], float("inf"))
        if settled["reply"] != "LEASE_LOST" and late > 0:
            found.append(f"{story.label}: {settled['worker']} settled it {late:.3f} s after it was fenced")
    return found


def _stolen(story: Story, destroyed: Sequence[float]) -> list[str]:
    """Settlements that were accepted though somebody else had started the job before they were sent.

    A job's leases come in the order (attempt, delivery). A release gives the delivery back: then two workers may
    have the same, one after the other. Once the group was destroyed, or a consumer removed, deliveries are counted
    anew. Who still runs a job that was handed back since may have been given it again, and have gone on with it.
    """
    found = []
    for settled in story.settled:
        if settled["reply"] == "LEASE_LOST" or not (settled["sent_at"] and settled["attempt"]):
            continue  # of what was released unread nobody knows the attempt
        lease = (settled["attempt"], settled["deliveries"])
        mine = [run.at for run in story.runs if run.start["worker"] == settled["worker"]]
        # Of a lease that was handed back unstarted nobody knows when it was taken: it may be another's by now.
        began = max((at for at in mine if at <= settled["sent_at"]), default=float("inf"))
        for run in story.runs:
            worker, *theirs = run.lease
            # Who was given it before that may begin it after, and have lost it in between.
            anew = any(run.at - _STARTED <= at <= settled["sent_at"] for at in destroyed)
            order = (tuple(theirs) > lease) - (tuple(theirs) < lease) if not anew else theirs[0] - lease[0]
            back = anew or _was_released(run, settled["sent_at"])
            later = order > 0 or (order == 0 and run.at > began and not back)
            if worker != settled["worker"] and later and run.at < settled["sent_at"]:
                found.append(
                    f"{story.label}: {settled['worker']} settled attempt {lease[0]}, delivery {lease[1]} "
                    f"{settled['sent_at'] - run.at:.3f} s after {worker} had started it"
                )
                break
    return found


def _who(run: Run) -> str:
    end = run.end["result"] if run.end is not None else "no end"
    told = f"{run.settled['settlement']} {run.settled['reply']}" if run.settled is not None else "not settled"
    return f"{run.lease[0]} (delivery {run.lease[2]}, {end}, {told})"

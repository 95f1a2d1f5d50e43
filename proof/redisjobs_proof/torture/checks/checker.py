"""Judges a torture by its recordings, and by the contents of Redis at its end. Pure."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set

from redisjobs.events.recording import Line
from redisjobs_proof.torture.checks.answers import wrong_answers
from redisjobs_proof.torture.checks.capacity import Capacity
from redisjobs_proof.torture.checks.causes import FAILED, MAX_DELIVERIES, NONE, WOKEN, Causes, Leases, pairs
from redisjobs_proof.torture.checks.clock import Clock
from redisjobs_proof.torture.checks.dead_letters import KILLERS, check_letters
from redisjobs_proof.torture.checks.families import adopt, estranged, family_names
from redisjobs_proof.torture.checks.fences import unfenced
from redisjobs_proof.torture.checks.follow_ups import follow_up
from redisjobs_proof.torture.checks.histories import History, Key, histories_of, was
from redisjobs_proof.torture.checks.latest import outdated
from redisjobs_proof.torture.checks.limits import over_the_limit
from redisjobs_proof.torture.checks.order import disorder
from redisjobs_proof.torture.checks.ownership import stolen, wrongly_refused
from redisjobs_proof.torture.checks.recovery import measure
from redisjobs_proof.torture.checks.replication import REPLICATION, exposed, keep_jobs, set_apart, taken_over
from redisjobs_proof.torture.checks.slots import misfired, take_as_pushed
from redisjobs_proof.torture.checks.stalls import stalls, too_long
from redisjobs_proof.torture.checks.steps import misremembered
from redisjobs_proof.torture.checks.stops import started_though_stopped
from redisjobs_proof.torture.checks.suspensions import misled
from redisjobs_proof.torture.checks.verdict import Verdict
from redisjobs_proof.torture.checks.waits import late
from redisjobs_proof.torture.fleet.final import FinalState
from redisjobs_proof.torture.fleet.store import Letter

_LOCKED = 1.0  # seconds for which one thread of a process may keep its other threads from running


def check(lines: Iterable[Line], finals: Sequence[FinalState], lease: float = 2.0) -> Verdict:
    """Judge a torture by its lines, in any order; `lease` is for a worker that has not recorded its own."""
    ordered = sorted(lines, key=lambda line: line["at"])
    histories = histories_of(ordered)
    faults = [line for line in ordered if line["what"] in ("fault", "stall")]
    leases = Leases(lease, {line["pid"]: line["lease"] for line in ordered if line.get("lease")})
    clock = Clock(ordered)
    databases = {line["pid"]: line["db"] for line in ordered if "pid" in line}
    causes = Causes(faults, histories, leases, databases)
    unseen = adopt(histories)
    names = exposed(ordered)
    names = family_names(histories, names) if names else names
    losing = family_names(histories, exposed(ordered, losing=True)) if names else names
    verdict = Verdict(slots=take_as_pushed(histories, finals))
    verdict.follow_ups, strange = follow_up(histories, ordered, finals)
    for db, final in enumerate(finals):
        mine = {key: history for key, history in histories.items() if key[0] == db}
        _Judge(verdict, mine, final, causes, clock, ordered, db, names, unseen[db]).judge()
    for counts in ("again", "duplicates", "worker_lost"):
        setattr(verdict, counts, dict(Counter(getattr(verdict, counts)).most_common()))
    _count(verdict, ordered, finals)
    _count_flows(verdict, histories)
    verdict.faults, stuck = measure(ordered)
    capacity = Capacity(histories, ordered, leases.longest)
    verdict.stalls = stalls(histories, ordered, capacity)
    verdict.wrong += [
        *strange,
        *(line["text"] for line in ordered if line["what"] == "found"),  # what faults themselves have seen
        *misremembered(histories, faults),
        *misled(histories, clock),
        *estranged(histories, finals),
        *wrong_answers(histories, finals, faults),
        *misfired(histories, finals),
        *outdated(ordered, finals),
        *started_though_stopped(histories, ordered),
        *over_the_limit(histories, ordered),
        *stuck,
        *late(capacity, leases),
        *too_long(verdict.stalls, leases),
        *disorder(histories, faults, clock),
        *_locked(ordered),
        *unfenced(ordered, faults, leases),
    ]
    verdict.keeps_jobs = bool(names) and keep_jobs(ordered)
    set_apart(verdict, names, lost=losing, stolen=taken_over(ordered))
    return verdict


def _count(verdict: Verdict, lines: Sequence[Line], finals: Sequence[FinalState]) -> None:
    """Count everything that does not concern a single job."""
    verdict.left_out = sum(info.missed for final in finals for info in final.schedules)
    verdict.full = sum(line["what"] == "refused" and line["full"] for line in lines)
    verdict.dead = dict(sorted(Counter(letter.reason for final in finals for letter in final.letters).items()))
    verdict.results = sum(len(final.statuses) for final in finals)
    answers = (line["error"] or "result" for line in lines if line["what"] == "answered")
    verdict.answers = dict(Counter(answers).most_common())
    verdict.watches = sum(line["what"] == "watched" for line in lines)


def _count_flows(verdict: Verdict, histories: Mapping[Key, History]) -> None:
    """Count the steps, waits and signals of jobs, each once."""
    waits, signals = Counter[str](), Counter[str]()
    for history in histories.values():
        verdict.steps += len({line["key"] for line in history.noted("saved")})
        waits.update({line["key"]: line["how"] for line in history.noted("passed")}.values())
        signals.update(line["reply"] for line in history.noted("signalled"))
    verdict.waits, verdict.signals = dict(waits.most_common()), dict(signals.most_common())


def _locked(lines: Iterable[Line]) -> Iterator[str]:
    """Yield processes in which one thread kept the interpreter locked, so that no other thread ran."""
    for line in lines:
        if line["what"] == "stall" and line.get("busy"):
            seconds = line["ended"] - line["began"]
            if seconds > _LOCKED:
                yield f"process {line['pid']} kept the interpreter locked for {seconds:.1f} s"


class _Judge:
    """Judges the jobs of one database."""

    def __init__(
        self,
        verdict: Verdict,
        histories: Mapping[Key, History],
        final: FinalState,
        causes: Causes,
        clock: Clock,
        lines: Sequence[Line],
        db: int,
        forgotten: Set[str] = frozenset(),
        unseen: int = 0,
    ) -> None:
        self._verdict, self._db = verdict, db
        self._forgotten = forgotten  # the jobs that replication may have lost, or what happened to them
        self._histories, self._final = histories, final
        self._causes, self._clock = causes, clock
        self._fenced = {
            line["worker"]: line["at"] for line in reversed(lines) if line["what"] == "fenced" and line["db"] == db
        }
        self._destroyed = [
            line["began"] for line in lines if line.get("forgets_deliveries") and line["db"] in (None, db)
        ]
        self._letters = list(_keyed_letters(histories, final, db))
        self._dead = Counter(key for _, key in self._letters)
        self._external_ids = Counter(history.job for history in histories.values() if history.external)
        # Jobs that were surely on the queue, and jobs that may have been
        self._arrived, self._maybe = 0, unseen  # children that their parents never saw may have been there
        # Jobs that were surely cancelled, and jobs that may have been
        self._cancelled = self._unknown = 0
        self._external = 0  # entries that Redis does not count as pushed

    def judge(self) -> None:
        verdict = self._verdict
        verdict.left += self._final.left
        for key, history in self._histories.items():
            verdict.pushed += history.attempted
            verdict.acknowledged += history.acknowledged
            verdict.refused += sum(line["reply"] == "LEASE_LOST" for line in history.settled)
            if history.runs and not (history.attempted or history.external):
                verdict.wrong.append(f"{history.label} ran, and was never pushed")
            if history.external:
                self._external += not history.counted
                self._arrived += history.counted
                self._judge_external(key, history)
            elif (history.attempted or history.runs) and self._was_added(key, history):
                self._judge_end(key, history)
            self._judge_runs(history)
            verdict.stolen += stolen(history, self._fenced, [*self._destroyed, *history.recounted])
            # The locator names only the first of several external entries with one id: the others are refused.
            if not (history.external and self._external_ids[history.job] > 1):
                verdict.wrong += wrongly_refused(history, self._fenced, self._destroyed)
            self._judge_killer(history)
        verdict.external += self._external
        check_letters(
            verdict, self._letters, self._histories, self._causes, self._clock, self._db, self._destroyed
        )
        self._judge_totals()

    def _was_added(self, key: Key, history: History) -> bool:
        """Whether Redis added a push as a new job; note if that, or its answer, was wrong."""
        ran = bool(history.runs or self._dead[key])
        wrong = self._verdict.wrong
        if history.holder:
            if ran:
                wrong.append(
                    f"{history.label} ran, though the answer to its push was: {history.holder} has its key"
                )
            return False
        if history.expected == "there":
            if ran:
                wrong.append(f"{history.label} ran, though a job had that id when it was pushed")
            elif history.added:
                wrong.append(f"{history.label} was answered as a new job, though a job had that id")
            return ran
        if history.added is False:
            wrong.append(f"{history.label} was answered as there already, though no job had that id any more")
            return ran
        there = ran or history.was_there
        self._maybe += history.cancel_asked and not there
        return there

    def _judge_end(self, key: Key, history: History) -> None:
        """Check that a job that was on the queue has ended once, and as it should."""
        verdict = self._verdict
        dead, located = bool(self._dead[key]), history.job in self._final.located
        cancelled = history.cancelled or any(line["cancelled"] for line in history.outcomes)
        acked = any(was(line, "Ack") and not line["cancelled"] for line in history.outcomes)
        self._arrived += 1
        self._cancelled += cancelled
        self._unknown += history.cancel_asked and not (cancelled or acked or dead)
        verdict.twice += _twice(history, dead=dead, cancelled=cancelled, acked=acked)
        if dead:
            return
        if cancelled and history.cancel_asked:
            verdict.cancelled += 1
        elif cancelled:
            verdict.lost.append(f"{history.label}: cancelled without a request")
        elif acked or (history.done and not located):
            verdict.done += 1
            if not history.done:
                verdict.wrong.append(f"{history.label} was settled as done, and its handler never ended")
            if history.name in ("Hopeless", "BadChild", "Raiser", "ThreadRaiser"):
                verdict.wrong.append(f"{history.label} was to fail, and did not")
        elif history.cancel_asked and not located:
            verdict.cancelled += 1
        elif not located:
            verdict.lost.append(history.label)

    def _judge_external(self, key: Key, history: History) -> None:
        """Check that an entry written outside redisjobs has ended: its handler ran, or it is a dead letter."""
        dead = self._dead[key] > 0
        if dead and history.done and any(run.accepted for run in history.done):
            self._verdict.twice.append(f"{history.label}, an external entry, ended as dead and as done")
        elif not dead and not history.done:
            self._verdict.lost.append(f"{history.label}, an external entry")

    def _judge_runs(self, history: History) -> None:
        """Check that each further run has a cause: the run before it failed, or a fault hit that run."""
        verdict, twice = self._verdict, ""
        for first, second in pairs(history):
            cause = self._causes.of(history, first, second)
            if cause == NONE and history.job in self._forgotten:
                cause = REPLICATION
            if cause not in (FAILED, WOKEN):
                verdict.again[cause] = verdict.again.get(cause, 0) + 1
            if first.done and not twice:
                twice = cause
            if cause == NONE:
                verdict.wrong.append(
                    f"{history.label} ({history.name}) was started again, and no fault had hit it: "
                    f"{first}, then {second} {second.at - first.at:.3f} s later"
                )
        if len(history.done) > 1:
            verdict.duplicates[twice] = verdict.duplicates.get(twice, 0) + 1
        if history.runs and not history.external:
            attempt = min(run.attempt for run in history.runs)
            if attempt > 1:
                verdict.wrong.append(f"{history.label} ({history.name}) was started first as attempt {attempt}")

    def _judge_killer(self, history: History) -> None:
        if history.name not in KILLERS or not history.runs:
            return
        first, last = history.runs[0].at, history.runs[-1].at
        # Where the group was destroyed, deliveries are counted from zero again.
        lives = 1 + sum(first <= at <= last for at in self._destroyed)
        if len(history.runs) > MAX_DELIVERIES * lives:
            self._verdict.wrong.append(
                f"{history.label} kills its workers, and was started {len(history.runs)} times"
            )

    def _judge_totals(self) -> None:
        total, wrong, slack = Counter(self._final.totals), self._verdict.wrong, len(self._forgotten)
        if not self._arrived - slack <= total["pushed"] <= self._arrived + self._maybe + slack:
            wrong.append(f"Redis counts {total['pushed']} pushes; {self._arrived} jobs were seen")
        if total["dead"] != len(self._final.letters):
            wrong.append(f"Redis counts {total['dead']} dead; there are {len(self._final.letters)} dead letters")
        ended = total["completed"] + total["cancelled"] + total["dead"]
        if abs(ended - total["pushed"] - self._external) > slack:
            wrong.append(
                f"Redis counts {total['completed']} completed + {total['cancelled']} cancelled + "
                f"{total['dead']} dead = {ended}; {total['pushed']} were pushed and {self._external} are external"
            )
        least, most = self._cancelled, self._cancelled + self._unknown + self._maybe
        if not least - slack <= total["cancelled"] <= most + slack:
            expected = f"from {least} to {most}" if most > least else str(least)
            wrong.append(f"Redis counts {total['cancelled']} cancelled; it must be {expected}")


def _keyed_letters(histories: Mapping[Key, History], final: FinalState, db: int) -> Iterator[tuple[Letter, Key]]:
    """Yield each dead letter with the key of its job."""
    by_id = {history.job: key for key, history in histories.items()}
    for letter in final.letters:
        key = (db, letter.mark or letter.job)
        yield letter, key if key in histories else by_id.get(letter.job, key)


def _twice(history: History, *, dead: bool, cancelled: bool, acked: bool) -> list[str]:
    ways = [way for way, so in {"dead": dead, "cancelled": cancelled, "done": acked}.items() if so]
    if len(ways) > 1:
        return [f"{history.label} ended as {' and as '.join(ways)}"]
    if len(history.outcomes) > 1:
        workers = " and of ".join(line["worker"] for line in history.outcomes)
        return [f"{history.label}: settlements of {workers} were accepted"]
    return []

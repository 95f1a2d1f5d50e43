"""The words for why a job does not run, made from what is known of it: the cause, a sentence, facts and advice."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from redisjobs._version import __version__
from redisjobs.base.visible import in_words, number_of, sentence, visible
from redisjobs.client.obstacles import OBSTACLES, words_of
from redisjobs.control.children import by_weight, not_ended
from redisjobs.model.changes import Ending
from redisjobs.model.codec import when
from redisjobs.model.info import ChildGroup, JobInfo, PauseInfo, WorkerInfo
from redisjobs.model.job import State, WhyWaiting
from redisjobs.model.progress import amount
from redisjobs.model.statistics import Tally, rate_of
from redisjobs.model.transitions import WaitsFor
from redisjobs.model.why import Cause, Standing, Why

_CAUSES = {why: Cause(why.value) for why in WhyWaiting}
_LATE = timedelta(seconds=3)  # a due job is promoted within 2 s even if its promoter was lost just now
MOST_SHOWN = 10
"""The most names, workers and jobs in a list."""

_MOST_NAMED = 3  # children in a sentence


@dataclass(frozen=True, slots=True)
class JobFacts:
    """What is known of a job and its queue."""

    queue: str
    job_id: str
    standing: Standing
    job: JobInfo | None = None
    workers: Sequence[WorkerInfo] | None = None  # None: this may not be read, as in the next two
    pauses: PauseInfo | None = None
    lately: Tally | None = None  # all jobs of the last minutes
    usual: Tally | None = None  # jobs of its name in the last hour
    ending: Ending = Ending.NOT_FOUND  # how it ended, if it is not on the queue
    key: str | None = None  # the unique key that was asked for
    awaited: ChildGroup | None = None  # that it waits for, with children that have not ended

    @property
    def now(self) -> datetime:
        """The time by the server's clock."""
        return when(self.standing.now_ms)

    @property
    def live(self) -> list[WorkerInfo]:
        """The workers whose leases last."""
        return [worker for worker in self.workers or () if worker.lease > 0]

    @property
    def able(self) -> list[WorkerInfo]:
        """The live workers that have a handler for the job's name, or may have one."""
        name = self.job.name if self.job else ""
        return [each for each in self.live if name in each.names or each.has_more_names or not each.started_at]

    @property
    def words(self) -> dict[str, str]:
        """The words that texts of `OBSTACLES` and commands are filled with."""
        return words_of(self.queue, self.job_id, self.job.name if self.job else "")

    def obstacle(self, why: WhyWaiting) -> tuple[str, str]:
        """Return the clause and the advice for an obstacle."""
        clause, advice = OBSTACLES[why]
        return clause.format(**self.words), advice.format(**self.words)


@dataclass(frozen=True, slots=True)
class _Said:
    cause: Cause
    sentence: str
    advice: str = ""
    facts: Mapping[str, Any] | None = None


def explain(known: JobFacts) -> Why:
    """Return why the job does not run, or what became of it."""
    said = _said(known)
    text, job = said.sentence, known.job
    if known.key is not None and job is not None:
        who = f"job {visible(known.job_id)} holds the unique key {known.key!r}"
        text = f"{who}, so a push with this key adds no job until it is free. {sentence(text)}"
    facts = {**_job_facts(known), **(said.facts or {})}
    return Why(
        cause=said.cause,
        sentence=sentence(text),
        facts={key: value for key, value in facts.items() if value not in (None, "", [], ())},
        advice=sentence(said.advice),
        job=job,
    )


def _job_facts(known: JobFacts) -> dict[str, Any]:
    job = known.job
    if job is None:
        return {"job": known.job_id, "unique_key": known.key}
    facts = {"job": job.job_id, "name": job.name, "state": str(job.state), "priority": str(job.priority)}
    more = {"pushed_at": job.queued_at, "attempt": job.attempt, "deliveries": job.deliveries or None}
    parents = {"parent": job.parent, "child_of": job.child_of and str(job.child_of)}
    return {**facts, **more, "unique_key": job.unique or known.key, **parents}


def _said(known: JobFacts) -> _Said:
    job = known.job
    if job is None:
        return _missing(known)
    match job.state:
        case State.READY | State.DELAYED | State.SUSPENDED if (
            job.cancelling
        ):  # its worker died or stopped before its handler did
            return _Said(Cause.CANCELLING, "it was cancelled while it ran; the worker that takes it next ends it")
        case State.READY:
            return _obstacle(known, job) or _quiet(known) or _in_line(known, job)
        case State.DELAYED:
            return _delayed(known, job)
        case State.SUSPENDED:
            return _suspended(known, job)
        case State.RUNNING:
            return _running(known, job)
        case State.DEAD:
            return _dead(known, job)
    ended = "it is done" if job.state is State.COMPLETED else "it was cancelled"
    at = f" at {_time(job.finished_at)}" if job.finished_at else ""
    facts = {"worker": job.worker, "finished_at": job.finished_at, "duration": job.duration}
    cause = Cause.DONE if job.state is State.COMPLETED else Cause.CANCELLED
    again = "`redisjobs job {job}{on}` shows it".format(**known.words)
    return _Said(cause, f"{ended}{at}", again, facts)


# Jobs that wait


def _obstacle(known: JobFacts, job: JobInfo) -> _Said | None:
    """Return what keeps a waiting job from starting, besides its place in line and its due time."""
    why = job.why_waiting
    if why in (None, WhyWaiting.NO_HANDLER, WhyWaiting.LAST_DELIVERY) and (found := _unhandled(known, job)):
        return found
    if why is None or (why is WhyWaiting.NO_HANDLER and known.able):  # a worker with a handler has come since
        return None
    clause, advice = known.obstacle(why)
    since, standing = _since(known, job, why), known.standing
    facts: dict[str, Any] = {"since": since}
    if since is not None:
        clause += f", since {_time(since)}"
    if why is WhyWaiting.LIMIT:
        clause, facts = _limit(known, clause)
    if why is WhyWaiting.NO_WORKER and known.workers:
        facts["workers"] = _listed([each.worker_id for each in known.workers])
        clause += f": the leases of {number_of(len(known.workers), 'worker')} have ended"
    return _Said(_CAUSES[why], clause, advice, {**facts, "jobs_ahead": standing.ahead or None})


def _since(known: JobFacts, job: JobInfo, why: WhyWaiting) -> datetime | None:
    if why is WhyWaiting.HELD:
        return None if known.standing.held_ms is None else when(known.standing.held_ms)
    if known.pauses is None:
        return None
    paused = {WhyWaiting.PAUSED: known.pauses.since, WhyWaiting.NAME_PAUSED: known.pauses.names.get(job.name)}
    return paused.get(why)


def _limit(known: JobFacts, clause: str) -> tuple[str, dict[str, Any]]:
    standing = known.standing
    turn = None if standing.turn_ms is None else when(standing.turn_ms)
    runs = f"{number_of(standing.running, 'job')} of it {'runs' if standing.running == 1 else 'run'}"
    next_one = f"; the next may start at {_time(turn)}" if turn and turn > known.now else ""
    facts = {
        "limit": f"{standing.bucket.partition(' ')[0]}: {standing.limit or 'none any more'}",
        "limit_key": standing.bucket.partition(" ")[2],
        "running": standing.running,
        "running_jobs": _listed([f"{visible(job)} on {visible(worker)}" for worker, job in standing.holders]),
        "next_start": turn,
    }
    return f"{clause}: {runs}, and {_ahead(standing)}{next_one}", facts


def _unhandled(known: JobFacts, job: JobInfo) -> _Said | None:
    """Return that no live worker has a handler for the job's name; None if one may have it."""
    if not known.live or known.able:
        return None
    import difflib  # here: few programs ask why, and all load this module

    handlers = sorted({name for worker in known.live for name in worker.names})
    versions = sorted({worker.version for worker in known.live})
    near = difflib.get_close_matches(job.name, handlers, 3)
    _, advice = known.obstacle(WhyWaiting.NO_HANDLER)
    clause = f"no live worker of queue '{visible(known.queue)}' has a handler for '{visible(job.name)}'"
    if near:
        clause += f"; they have one for {', '.join(repr(visible(name)) for name in near)}"
    facts = {"handlers": _listed(handlers), "near_names": near, "workers": len(known.live), "releases": versions}
    if __version__ in versions:
        return _Said(Cause.NO_HANDLER, clause, advice, facts)
    clause += f". All of them run redisjobs {', '.join(versions)}; this is {__version__}"
    return _Said(Cause.OTHER_RELEASE, clause, f"start a worker of release {__version__}", facts)


def _quiet(known: JobFacts) -> _Said | None:
    """Return that no worker that could run the job claims jobs; None if one does."""
    if not known.able or not all(worker.quiet or worker.stopping for worker in known.able):
        return None
    advice = "`redisjobs workers resume ID{on}` lets a quiet one claim again; or start another"
    facts = {"workers": _listed([worker.worker_id for worker in known.able])}
    clause = "all workers with a handler for it are quiet, or stop"
    return _Said(Cause.QUIET, clause, advice.format(**known.words), facts)


def _in_line(known: JobFacts, job: JobInfo) -> _Said:
    standing, able = known.standing, known.able
    slots, busy = sum(each.slots for each in able), sum(each.running for each in able)
    rate = rate_of(known.lately) if known.lately else 0.0
    facts = {
        "jobs_ahead": f"more than {standing.ahead:,}" if standing.has_more else standing.ahead,
        "workers_with_handler": len(able) if known.workers is not None else None,
        "slots": slots or None,
        "busy_slots": busy if slots else None,
        "jobs_per_second": round(rate, 2) if rate else None,
        "starts_in": round(standing.ahead / rate, 1) if rate and standing.ahead else None,
    }
    clause = _ahead(standing) if standing.ahead else "it is the next to start"
    if rate and standing.ahead:
        least = "more than " if standing.has_more else "about "
        clause += f": {least}{in_words(standing.ahead / rate)} at the rate of the last minutes"
    advice = ""
    if slots and busy >= slots:
        clause += f". All {slots} slots of the {number_of(len(able), 'worker')} with a handler for it are busy"
        advice = "add slots, processes or hosts if it takes too long"
    elif slots and not standing.ahead:
        clause += f"; {slots - busy} of {slots} slots were free at the last heartbeat"
    return _Said(Cause.IN_LINE, clause, advice, facts)


def _delayed(known: JobFacts, job: JobInfo) -> _Said:
    obstacle, due = _obstacle(known, job), job.due_at
    if job.held and obstacle:
        return replace(obstacle, facts={**(obstacle.facts or {}), "due_at": due})
    failed = bool(job.error)
    facts = {"due_at": due, "error": job.error, "promoter": known.standing.promoter}
    if due is not None and known.now - due > _LATE:
        if obstacle:
            return replace(obstacle, facts={**facts, **(obstacle.facts or {})})
        late = in_words((known.now - due).total_seconds())
        advice = "look into the log of a worker: one that claims jobs makes it ready"
        return _Said(Cause.OVERDUE, f"it was due {late} ago, and no worker has made it ready", advice, facts)
    left = in_words(max(0.0, (due - known.now).total_seconds())) if due else "a while"
    clause = f"it is delayed, and due in {left}, at {_time(due)}"
    if failed:
        clause = f"attempt {job.attempt - 1} failed ({visible(job.error, 200)}); the next one is due in {left}"
        clause += f", at {_time(due)}"
    if obstacle:
        clause += f". {sentence(obstacle.sentence).rstrip('.')}"
    advice = obstacle.advice if obstacle else ""
    return _Said(Cause.RETRYING if failed else Cause.DELAYED, clause, advice, facts)


def _suspended(known: JobFacts, job: JobInfo) -> _Said:
    """Return what a suspended job waits for, and what keeps it from starting after that."""
    obstacle, wakes_at = _obstacle(known, job), job.wakes_at
    waits_for = job.waits_for and str(job.waits_for)
    facts: dict[str, Any] = {"waits_for": waits_for, "since": job.suspended_at, "wakes_at": wakes_at}
    if known.awaited:
        facts["children_left"] = not_ended(known.awaited, MOST_SHOWN)
    if obstacle and obstacle.cause is Cause.HELD:  # neither a time nor a signal lets it start
        clause = f"{obstacle.sentence}; it waits for {_awaited(job, 220)}"
        return replace(obstacle, sentence=clause, facts={**facts, **(obstacle.facts or {})})
    if wakes_at is not None and known.now - wakes_at > _LATE:
        if obstacle:
            return replace(obstacle, facts={**facts, **(obstacle.facts or {})})
        late = in_words((known.now - wakes_at).total_seconds())
        advice = "look into the log of a worker: one that claims jobs wakes it"
        return _Said(Cause.OVERDUE, f"its wait was over {late} ago, and no worker has woken it", advice, facts)
    clause, advice = _wait(known, job)
    if obstacle:
        clause, advice = f"{clause}. {sentence(obstacle.sentence).rstrip('.')}", advice or obstacle.advice
    return _Said(Cause.SUSPENDED, clause, advice, facts)


def _wait(known: JobFacts, job: JobInfo) -> tuple[str, str]:
    """Return in words what a suspended job waits for, and what ends the wait."""
    wakes_at = job.wakes_at
    said = f"it has been suspended since {_time(job.suspended_at)}" if job.suspended_at else "it is suspended"
    left = in_words(max(0.0, (wakes_at - known.now).total_seconds())) if wakes_at else ""
    what = job.waits_for and job.waits_for.what
    if what is WaitsFor.TIME:
        return f"{said}, and sleeps for {left or 'a while'}, until {_time(wakes_at)}", ""
    clause = f"{said}, and waits for {_awaited(job, 260)}"
    if what is WaitsFor.CHILDREN:
        return _children(known, clause)
    clause += f", for {left} more, until {_time(wakes_at)}" if wakes_at else ", without a time limit"
    if job.waits_for is None or what is not WaitsFor.SIGNAL:
        return clause, ""
    words = {**known.words, "signal": shlex.quote(visible(job.waits_for.name, 220))}
    send = "`redisjobs signal {job} {signal} VALUE{on}` sends it the signal, with a value in JSON"
    return clause, send.format(**words)


def _awaited(job: JobInfo, most: int) -> str:
    return visible(str(job.waits_for), most) if job.waits_for else "an unknown step"


def _children(known: JobFacts, clause: str) -> tuple[str, str]:
    """Return in words for which children a job waits, and what says why the first of them has not ended."""
    group = known.awaited
    if group is None or not group.children:
        return clause, ""
    first = shlex.quote(visible(by_weight(group.children)[0].job_id))
    advice = "`redisjobs why {first}{on}` says why that one has not ended".format(first=first, **known.words)
    return f"{clause}. Not ended: {', '.join(not_ended(group, _MOST_NAMED))}", advice


# Jobs that run, or have ended


def _running(known: JobFacts, job: JobInfo) -> _Said:
    worker = next((each for each in known.workers or () if each.worker_id == job.worker), None)
    usual = known.usual.run if known.usual else None
    ran, progress = in_words(job.duration or 0.0), job.progress
    facts = {
        "worker": job.worker,
        "started_at": job.started_at,
        "duration": job.duration,
        "usual_duration_p50": usual.p50 if usual else None,
        "usual_duration_p95": usual.p95 if usual else None,
        "progress": f"{amount(progress)} {progress.note}".strip() if progress else "",
        "worker_lease": round(worker.lease, 1) if worker else None,
    }
    clause = f"it has been running on {visible(job.worker)} for {ran}"
    if usual:
        clause += f"; jobs of its name usually take {in_words(usual.p50)}, and 95 % up to {in_words(usual.p95)}"
    if known.workers is not None and (worker is None or worker.lease <= 0):
        ago = in_words(-worker.lease) if worker else ""
        ended = f"was silent until its lease ended {ago} ago" if worker else "has no record"
        advice = "another worker takes the job over within seconds, if one is alive"
        if not known.live:
            advice = OBSTACLES[WhyWaiting.NO_WORKER][1]
        return _Said(Cause.WORKER_SILENT, f"{clause}, but that worker {ended}", advice, facts)
    if job.cancelling:
        advice = "its handler was asked to stop; a thread ends only if the handler looks at `context.cancelled`"
        return _Said(
            Cause.CANCELLING, f"{clause}. It was cancelled, and its handler has not stopped", advice, facts
        )
    return _Said(Cause.RUNNING, clause, "", facts)


def _dead(known: JobFacts, job: JobInfo) -> _Said:
    alike = known.standing.alike
    error = f" ({visible(job.error, 200)})" if job.error else ""
    clause = f"it is a dead letter, reason '{job.reason}'{error}, after {number_of(job.attempt, 'attempt')}"
    if alike > 1:
        clause += f". {alike:,} dead letters are of this kind"
    facts = {
        "reason": job.reason,
        "error": job.error,
        "failed_at": job.failed_at,
        "worker": job.worker,
        "alike": alike or None,
        "fingerprint": job.fingerprint,
    }
    advice = "`redisjobs dead requeue {job}{on}` runs it again".format(**known.words)
    return _Said(Cause.DEAD, clause, advice, facts)


_ENDED = {
    Ending.COMPLETED: (Cause.DONE, "it is done, and its result is kept"),
    Ending.REFUSED: (Cause.DONE, "it is done, but its result could not be kept"),
    Ending.EXPIRED: (Cause.DONE, "it is done, and its result has expired"),
    Ending.DEAD: (Cause.DEAD, "it failed, and its dead letter was deleted"),
    Ending.CANCELLED: (Cause.CANCELLED, "it was cancelled"),
}


def _missing(known: JobFacts) -> _Said:
    standing = known.standing
    if known.key is not None:
        return _without_holder(known)
    if known.ending in _ENDED:
        return _Said(*_ENDED[known.ending])
    if standing.in_inbox:
        return _Said(
            Cause.INBOX,
            "it is in the inbox: the next worker that looks there pushes it",
            "start a worker if none runs",
        )
    if standing.has_ended:
        return _Said(Cause.GONE, "it is not on the queue: it ended within the last minute", "")
    where = f"queue '{visible(known.queue)}'"
    advice = "compare the queue's name and its server; a queue keeps ended jobs only with a `Retention`"
    return _Said(Cause.GONE, f"it is not on {where}: it ended and left no trace, or never was there", advice)


def _without_holder(known: JobFacts) -> _Said:
    key, standing = f"the unique key {known.key!r}", known.standing
    if not standing.job_id:
        return _Said(Cause.KEY_FREE, f"no job holds {key}: the next push with it adds a job")
    holder = f"{key} is held for job {visible(standing.job_id)}, which is not on the queue"
    if standing.key_ms is not None:
        left = in_words(standing.key_ms / 1000)
        said = f"{holder}: it was pushed with `unique_for`, so the key stays for {left} more"
        return _Said(Cause.KEY_LEFT, said, "", {"key_free_in": standing.key_ms / 1000})
    return _Said(
        Cause.KEY_LEFT, f"{holder}: pushes with it add nothing", "`redisjobs doctor --repair` frees the key"
    )


# Parts of sentences


def _ahead(standing: Standing) -> str:
    if standing.has_more:
        return f"more than {standing.ahead:,} jobs start before it"
    return f"{number_of(standing.ahead, 'job')} {'starts' if standing.ahead == 1 else 'start'} before it"


def _listed(texts: Sequence[str]) -> list[str]:
    more = len(texts) - MOST_SHOWN
    return [*texts[:MOST_SHOWN], *([f"and {more} more"] if more > 0 else [])]


def _time(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC" if at else "an unknown time"

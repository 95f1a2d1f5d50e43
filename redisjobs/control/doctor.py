"""The doctor of a queue: checks its data, its workers and schedules, and its server, and may repair the data."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from redisjobs.base.visible import in_words, number_of, sentence, visible
from redisjobs.client.obstacles import words_of
from redisjobs.client.operation import Operation, ask, or_default
from redisjobs.client.schedules import listed
from redisjobs.control import operations
from redisjobs.control.findings import MOST_EXAMPLES, TIDIED, fault_findings, server_findings
from redisjobs.control.statistics import statistics
from redisjobs.model.codec import when
from redisjobs.model.health import Audit, CheckServer, Fault, Finding, Level, ServerFacts
from redisjobs.model.info import WorkerInfo, pause_info
from redisjobs.model.job import Priority
from redisjobs.model.moving import FindTaken, InTransit
from redisjobs.model.queries import Backlog, Count, Counts, FindPauses, GetBacklog, Pauses
from redisjobs.model.statistics import Interval, rate_of, total
from redisjobs.model.stored import ScheduleInfo

Progress = Callable[[int, int], object]
"""Called with how many things were looked at so far, and about how many there are."""

_LATELY = 600  # seconds of statistics for the rate
_LONG = 3600  # seconds to drain from which on a growing backlog is a warning
_LATE = timedelta(seconds=60)


def doctor(queue: str, repair: bool, progress: Progress | None) -> Operation[list[Finding]]:
    """Check a queue and its server; with `repair`, correct what loses no job."""
    if progress is not None and not callable(progress):
        raise TypeError(f"progress={progress!r:.60}: give a function that takes two numbers")
    on = words_of(queue, "", "")["on"]
    findings, waiting = yield from _data(repair, progress or (lambda done, total: None), on)
    return [*findings, *(yield from _service_and_server(waiting))]


def quick_checks() -> Operation[list[Finding]]:
    """Check the workers, the backlog, the schedules and the server, in a few short reads, without the data."""
    return (yield from _service_and_server(None))


def _service_and_server(waiting: Mapping[str, int] | None) -> Operation[list[Finding]]:
    server = yield from or_default(ask(CheckServer()), None)
    findings = yield from _service(waiting, server)
    return [*findings, *(server_findings(server) if server else ())]


# The data


class _AuditSteps:
    """What the steps of an audit have found so far."""

    def __init__(self) -> None:
        self.faults = defaultdict[str, list[Fault]](list)
        self.counts, self.waiting = Counter[str](), Counter[str]()
        self.left = Counter[str]()  # of these, how many were not repaired
        self.failed: dict[str, str] = {}
        self.looked = 0

    def add(self, faults: Sequence[Fault]) -> None:
        for fault in faults:
            self.counts[fault.kind] += 1
            self.left[fault.kind] += not fault.repaired
            some = self.faults[fault.kind]
            if len(some) < MOST_EXAMPLES:
                some.append(fault)

    def findings(self, on: str) -> Iterator[Finding]:
        yield from fault_findings(self.faults, self.counts, self.left, on)
        for part, error in self.failed.items():
            is_wrong = "WRONGTYPE" in error
            advice = "" if is_wrong else "run the doctor as a user who may do what it needs"
            level = Level.ERROR if is_wrong else Level.UNKNOWN
            yield Finding("data", level, sentence(f"not checked: {part}: {error}"), sentence(advice))
        if not self.counts and not self.failed:
            yield Finding("data", Level.OK, f"{self.looked:,} entries, locators and notes agree with each other.")


def _data(repair: bool, progress: Progress, on: str) -> Operation[tuple[list[Finding], Mapping[str, int] | None]]:
    """Return the findings, and the names of all ready jobs with their numbers; None if some were not looked at."""
    found, step, all_there = _AuditSteps(), Audit(repair=repair), 0
    while True:
        answer = yield from or_default(ask(step), None)
        if answer is None:  # the driver has no audit
            return [Finding("data", Level.UNKNOWN, "Not checked: this driver can't.")], None
        found.add(answer.faults)
        found.waiting.update(answer.waiting)
        found.looked, all_there = found.looked + answer.looked, answer.total or all_there
        if answer.error:
            found.failed[answer.part] = answer.error
        progress(found.looked, max(all_there, found.looked))
        if not answer.after:
            break
        # What could not be looked at may have the job that a later part takes for lost.
        step = Audit(answer.after, repair=repair and not found.failed)
    if repair and not found.failed:
        for kind in TIDIED:
            found.left[kind] = 0
    return [*found.findings(on)], found.waiting if found.failed.keys().isdisjoint(Priority) else None


# The service


def _service(waiting: Mapping[str, int] | None, server: ServerFacts | None) -> Operation[list[Finding]]:
    workers = yield from or_default(operations.workers(), None)
    counts = yield from or_default(ask(Count()), None)
    backlog = yield from or_default(ask(GetBacklog()), None)
    minutes = (yield from or_default(statistics(_LATELY, None, None), None)) or []
    pauses = yield from or_default(ask(FindPauses()), None)
    schedules = yield from or_default(listed(), None)
    transit = yield from or_default(ask(FindTaken(limit=1)), None)
    live = [worker for worker in workers or () if worker.lease > 0]
    findings = [*_workers(workers, live, counts)] if workers is not None else [_unchecked("workers")]
    if live and waiting is not None:
        findings += _handlers(waiting, live)
    is_paused = pauses is not None and pauses.queue is not None  # then it is no wonder that jobs wait
    findings += (
        _backlog(counts, backlog, minutes, [] if is_paused else live)
        if counts and backlog
        else [_unchecked("backlog")]
    )
    findings += _pauses(pauses) if pauses else [_unchecked("paused")]
    now = when(server.now_ms) if server else datetime.now().astimezone()
    findings += _schedules(schedules, now) if schedules is not None else [_unchecked("schedules")]
    findings += _in_transit(transit, now) if transit is not None else [_unchecked("in transit")]
    return findings


def _unchecked(check: str) -> Finding:
    return Finding(check, Level.UNKNOWN, "Not checked: the server or the driver refuses to say.")


def _workers(
    workers: Sequence[WorkerInfo], live: Sequence[WorkerInfo], counts: Counts | None
) -> Iterator[Finding]:
    there = sum([*counts.ready.values(), counts.running, counts.delayed, counts.inbox]) if counts else 0
    start = "Start one, as `redisjobs worker MODULE:QUEUE`."
    if not live:
        level = Level.ERROR if there else Level.WARNING
        text = f"No worker is alive, and {number_of(there, 'job')} {'waits' if there == 1 else 'wait'}."
        yield Finding("workers", level, text if there else "No worker is alive.", start, there)
    else:
        slots = sum(worker.slots for worker in live)
        text = (
            f"{number_of(len(live), 'worker')} with {number_of(slots, 'slot')} {'is' if len(live) == 1 else 'are'}"
        )
        yield Finding("workers", Level.OK, f"{text} alive.", count=len(live))
    if live and all(worker.quiet or worker.stopping for worker in live):
        text, advice = "All live workers are quiet, or stop, so no job starts.", "See `redisjobs workers`."
        yield Finding("quiet workers", Level.WARNING, text, advice, len(live))
    silent = [worker.worker_id for worker in workers if worker.lease <= 0]
    if silent:
        text = f"Workers whose leases have ended: {len(silent)} ({_some(silent)})."
        advice = "" if live else start
        yield Finding("silent workers", Level.WARNING, text, advice, len(silent), tuple(silent[:MOST_EXAMPLES]))
    versions = sorted({worker.version for worker in live if worker.version})
    if len(versions) > 1:
        text = f"Workers run several releases of redisjobs: {', '.join(versions)}."
        yield Finding(
            "releases", Level.INFO, text, "Restart those of the older one, unless a deploy is under way."
        )


def _handlers(waiting: Mapping[str, int], live: Sequence[WorkerInfo]) -> Iterator[Finding]:
    if any(worker.has_more_names or worker.started_at is None for worker in live):
        return  # one of these may have any handler
    known = {name for worker in live for name in worker.names}
    unhandled = {name: many for name, many in waiting.items() if name not in known}
    if unhandled:
        names = sorted(unhandled, key=unhandled.__getitem__, reverse=True)
        text = (
            f"Ready jobs without a handler in any live worker: {sum(unhandled.values()):,}, named {_some(names)}."
        )
        advice = (
            "Start a worker that imports the handlers; after an hour without one, a job becomes a dead letter."
        )
        examples = tuple(names[:MOST_EXAMPLES])
        yield Finding("handlers", Level.ERROR, text, advice, sum(unhandled.values()), examples)
    else:
        yield Finding("handlers", Level.OK, "A live worker has a handler for each ready job.")


def _backlog(
    counts: Counts, backlog: Backlog, minutes: Sequence[Interval], working: Sequence[WorkerInfo]
) -> Iterator[Finding]:
    ready, oldest = sum(counts.ready.values()), max(backlog.oldest.values(), default=0.0)
    if counts.inbox:
        text = f"Entries of the inbox that no worker has taken in: {counts.inbox}."
        yield Finding("inbox", Level.INFO, text, "A worker does so, unless the queue is paused.", counts.inbox)
    if not ready:
        yield Finding("backlog", Level.OK, "No job is ready and waits.")
        return
    rate = rate_of(total(minutes)) if minutes else 0.0
    before = next((each.sample.ready for each in minutes if each.sample), None)
    drains = (
        f"at {rate:.2g} a second they take {in_words(ready / rate)}" if rate else "none ended in the last minutes"
    )
    text = f"Ready jobs: {ready:,}, the oldest for {in_words(oldest)}; {drains}."
    grows = before is not None and ready > 1.1 * before + 10
    if grows:
        text += f" There are {ready - (before or 0):,} more than a few minutes ago."
    is_slow = (grows and ready > _LONG * rate) or (not rate and oldest > _LATE.total_seconds())
    if is_slow and working:
        advice = "Add slots, processes or hosts; `redisjobs why ID` tells what a job waits for."
        yield Finding("backlog", Level.WARNING, text, advice, ready)
    else:
        yield Finding("backlog", Level.INFO, text, "", ready)


def _pauses(found: Pauses) -> Iterator[Finding]:
    pauses = pause_info(found)
    if pauses.since is not None:
        yield Finding("paused", Level.INFO, f"The queue is paused since {pauses.since:%Y-%m-%d %H:%M:%S} UTC.")
    if pauses.names:
        names = list(pauses.names)
        text = f"Paused job names: {len(names)} ({_some(names)})."
        yield Finding("paused", Level.INFO, text, "", len(names), tuple(names[:MOST_EXAMPLES]))
    if pauses.held:
        yield Finding(
            "holds", Level.INFO, f"{number_of(pauses.held, 'job')} held until `redisjobs unhold`.", "", pauses.held
        )


def _schedules(schedules: Sequence[ScheduleInfo], now: datetime) -> Iterator[Finding]:
    kinds = {
        "unreadable": [each.name for each in schedules if each.error],
        "paused": [each.name for each in schedules if each.paused and not each.error],
        "stopped": [each.name for each in schedules if each.stopped and not each.paused and not each.error],
    }
    others = [each for each in schedules if not (each.error or each.paused or each.stopped)]
    kinds["late"] = [each.name for each in others if each.next_slot is not None and now - each.next_slot > _LATE]
    for kind, (level, text, advice) in _SCHEDULES.items():
        if names := kinds[kind]:
            said = f"{text}: {len(names)} ({_some(names)})."
            yield Finding("schedules", level, said, advice, len(names), tuple(names[:MOST_EXAMPLES]))
    if others and not kinds["late"]:
        yield Finding("schedules", Level.OK, f"Schedules that fire: {len(others)}.", count=len(others))


_SCHEDULES = {
    "late": (
        Level.ERROR,
        "Schedules that were due over a minute ago and have not fired",
        "Look into the logs of the workers, which fire them.",
    ),
    "unreadable": (Level.ERROR, "Schedules that can't be read or fired", "`redisjobs schedules list` says why."),
    "stopped": (
        Level.WARNING,
        "Schedules that no live worker declares, so that they do not fire",
        "Start a worker of the code that declares them, or `redisjobs schedules remove NAME`.",
    ),
    "paused": (Level.INFO, "Paused schedules", "`redisjobs schedules resume NAME` ends a pause."),
}


def _in_transit(there: InTransit, now: datetime) -> Iterator[Finding]:
    if not there.jobs:
        return
    waits = now - when(there.jobs[0].taken_ms)
    text = f"{number_of(there.total, 'job')} in transit to another store, and in no queue"
    if waits < _LATE:
        yield Finding("in transit", Level.INFO, f"{text}.", "", there.total)
    else:
        text = f"{text}; the oldest for {in_words(waits.total_seconds())}."
        advice = "Run the `redisjobs move` again that moved this queue: it goes on."
        yield Finding("in transit", Level.WARNING, text, advice, there.total)


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(visible(name, 60) for name in names[:MOST_EXAMPLES])
    return shown + ", …" * (len(names) > MOST_EXAMPLES)

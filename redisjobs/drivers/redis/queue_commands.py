"""What a producer and an operator say to the server; see `commands.py`."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from redisjobs.drivers.redis.commands import (
    GROUP,
    Command,
    Further,
    Word,
    due_word,
    is_waiting,
    pairs,
    queued_ms_of,
    raw_id,
    reply_of,
    running_of,
    text_id,
)
from redisjobs.drivers.redis.schedule_commands import ScheduleCommands, job_words, pushed
from redisjobs.model.changes import (
    BulkResult,
    Cancel,
    Change,
    Declare,
    Delete,
    DeleteAll,
    Ending,
    GetStatus,
    Hold,
    JobStatus,
    Pause,
    Requeue,
    RequeueAll,
    Resume,
    Retain,
    SetLimit,
    Tidied,
    Tidy,
    Unhold,
    Unpark,
)
from redisjobs.model.driver import supported
from redisjobs.model.info import FACTS
from redisjobs.model.job import Priority, State, WhyWaiting
from redisjobs.model.queries import (
    Backlog,
    Count,
    Counts,
    Filter,
    Find,
    FindLimits,
    FindPauses,
    FindWorkers,
    GetBacklog,
    Group,
    GroupDead,
    Grouped,
    LimitsFound,
    Pauses,
    Query,
    Row,
    Scan,
    Scanned,
    WorkersFound,
    backlog_since,
)
from redisjobs.model.retention import ASIDE, DEFAULT
from redisjobs.model.stored import (
    Fire,
    ListSchedules,
    PauseSchedule,
    PutSchedules,
    RemoveSchedule,
    WithdrawSchedules,
)
from redisjobs.model.transitions import MOST_JOBS, NewJob, Pushed, Reply

T = TypeVar("T")

_GONE_MS = 3_600_000  # an unheard-of consumer with nothing pending is removed after this
_TIDY_MS = 55_000  # all consumers are looked at so often, by whichever worker comes first
_REPLY_BYTES = 1024 * 1024  # of entries that one step looks at
_FAR = 1e15  # ms; somebody may have made `inf` a due time
_SMALL = 4096  # of parameters in bytes, or in characters, of four bytes at most: `push_one` takes less than 16 KB
_STREAMS = {priority: str(number) for number, priority in enumerate(Priority, 1)}
_ADDED = Pushed(Reply.OK)


@dataclass(slots=True)
class PushAnswer:
    """The answer to a push.

    Attributes:
        server_ms: The server's clock.
        pushed: What became of each job, from the first. If these are fewer than were pushed, the others have to be
            looked at one by one. None: the push was STALE, and wrote nothing.
    """

    server_ms: float
    pushed: list[Pushed] | None


def are_plain(jobs: Sequence[NewJob]) -> bool:
    """Whether jobs that were not pushed before have a name and parameters only, made ids, and one priority."""
    priority = jobs[0].priority
    for job in jobs:
        # In the order of what most often is not so; each job that is pushed goes by here.
        if job.nonce or job.due is not None or job.unique or job.expires_in_ms is not None:
            return False
        if job.priority is not priority or len(job.fields) != 4:
            return False
        if job.fields[0] != "name" or job.fields[2] != "parameters":
            return False
    return True


class QueueCommands(ScheduleCommands):
    """The commands of one queue's producers and operators."""

    def push(self, jobs: Sequence[NewJob], *, repeated: bool, sent_ms: float | None) -> Command[PushAnswer]:
        """Push jobs that were first sent at the same time.

        `sent_ms` is now by the server's clock, or earlier; None: not known, and the answer is STALE.
        """
        since_ms = jobs[0].sent_ms if repeated and jobs[0].sent_ms is not None else sent_ms
        arguments: list[Word] = [self._now, _time(sent_ms), _time(since_ms) if repeated else ""]
        for job in jobs:
            arguments += job_words(job)
        return self._run("push", arguments, _push_answer)

    def push_plain(self, jobs: Sequence[NewJob], *, sent_ms: float | None) -> Command[PushAnswer]:
        """The same for jobs that are plain, as `are_plain` says."""
        sent = _time(sent_ms)
        first = jobs[0]
        if len(jobs) == 1 and len(first.fields[3]) < _SMALL:
            words = [self._now, sent, first.priority, first.job_id, first.fields[1], first.fields[3]]
            return self._run("push_one", words, _one_answer)
        arguments: list[Word] = [self._now, sent, _STREAMS[first.priority]]
        arguments += [raw_id(job.job_id) for job in jobs]
        arguments += [job.fields[1] for job in jobs]
        arguments += [job.fields[3] for job in jobs]

        def parse(reply: Any) -> PushAnswer:
            now_us, word = reply
            if word == b"STALE":
                return PushAnswer(now_us / 1000, None)
            return PushAnswer(now_us / 1000, [_ADDED] * len(jobs) if word == b"OK" else [])

        return self._run("push_plain", arguments, parse)

    def read(self, query: Query[T]) -> Command[T]:
        """The command for a query.

        Raises:
            Unsupported: There is none.
        """
        command: Command[T] = supported(_READS, query, "Redis")(self, query)
        return command

    def change(self, change: Change[T]) -> Command[T]:
        """The command for a change.

        Raises:
            Unsupported: There is none.
        """
        command: Command[T] = supported(_CHANGES, change, "Redis")(self, change)
        return command

    def find(self, query: Find) -> Command[Row | None]:
        return self._run("find", [raw_id(query.job_id), self._now], lambda reply: _row(reply) if reply else None)

    def scan(self, query: Scan) -> Command[Scanned]:
        arguments = [query.state, raw_id(query.after), str(query.limit), *_words(query.filter), self._now]
        return self._run("scan", arguments, lambda reply: Scanned([*map(_row, reply[1:])], text_id(reply[0])))

    def groups(self, query: GroupDead) -> Command[Grouped]:
        return self._run(
            "groups", [query.after], lambda reply: Grouped([*map(_group, reply[1:])], text_id(reply[0]))
        )

    def counts(self, query: Count) -> Command[Counts]:
        def parse(known: Mapping[int, int], reply: Any) -> Any:
            reply[1] = [known.get(at, many) if many < 0 else many for at, many in enumerate(reply[1])]
            very_many = [number for number, many in enumerate(reply[1]) if many < 0]
            if not very_many:
                return _counts(reply)

            def join(answers: list[Any]) -> Any:
                *listed, again = answers
                return parse({**known, **dict(zip(very_many, map(running_of, listed), strict=True))}, again)

            again: Command[Any] = self._run("counts", [], lambda reply: reply)
            return Further([*map(self.consumers_of, very_many), again], join)

        return self._run("counts", [], partial(parse, {}))

    def backlog(self, query: GetBacklog) -> Command[Backlog]:
        return self._run("backlog", [self._now], _backlog)

    def workers(self, query: FindWorkers) -> Command[WorkersFound]:
        def parse(reply: Any) -> WorkersFound:
            after, now_ms, *found = reply
            told = [
                (_shown(worker), (_since(until_ms) - float(now_ms)) / 1000, _facts(values))
                for worker, until_ms, values in _threes(found)
            ]
            return WorkersFound(told, "" if after == b"0" else after.decode())

        return self._run("workers", [query.after or "0", self._now], parse)

    def pauses(self, query: FindPauses) -> Command[Pauses]:
        def parse(reply: Any) -> Pauses:
            since, names, held = reply
            paused = {name.decode("utf-8", "replace"): _whole(value) for name, value in pairs(names).items()}
            return Pauses(_whole(since) if since else None, paused, held)

        return self._run("pauses", [], parse)

    def pause(self, change: Pause) -> Command[Reply]:
        return self._run("pause", [raw_id(change.name), self._now], reply_of)

    def resume(self, change: Resume) -> Command[Reply]:
        return self._run("resume", [raw_id(change.name), self._now], reply_of)

    def unpark(self, change: Unpark) -> Command[str]:
        def parse(reply: Any) -> str:
            note, number, start = reply
            return f"{note.decode()} {number} {start.decode()}" if number else ""

        note, number, start = change.after.split(" ") if change.after else ("", "1", "-")
        return self._run("unpark", [note, number, start, str(_REPLY_BYTES)], parse)

    def limits(self, query: FindLimits) -> Command[LimitsFound]:
        def parse(reply: Any) -> Any:
            *page, very_many = reply
            commands = [self.consumers_of(number - 1) for number in very_many]
            return Further(commands, partial(found, page)) if commands else found(page, [])

        def found(page: Sequence[Any], listed: list[dict[bytes, int]]) -> LimitsFound:
            after, limits, lines, running = page
            by_name = {_shown(name): _shown(text) for name, text in pairs(limits).items()}
            waiting = [
                (_shown(bucket), many, int(max(0, min(float(turn), _FAR))) if turn else None)
                for bucket, count, turn in _threes(lines)
                if (many := count + sum(consumers.get(b"line:" + bucket, 0) for consumers in listed))
            ]
            held = [
                (_shown(bucket), _shown(worker), text_id(job_id)) for bucket, worker, job_id in _threes(running)
            ]
            return LimitsFound(by_name, waiting, held, text_id(after))

        return self._run("limits", [raw_id(query.after)], parse)

    def limit(self, change: SetLimit) -> Command[str]:
        arguments: list[Word] = [raw_id(change.name), change.limit, raw_id(change.after), self._now]
        return self._run("limit", arguments, text_id)

    def hold(self, change: Hold) -> Command[Reply]:
        return self._run("hold", [raw_id(change.job_id), self._now], reply_of)

    def unhold(self, change: Unhold) -> Command[Reply]:
        return self._run("unhold", [raw_id(change.job_id)], reply_of)

    def cancel(self, change: Cancel) -> Command[Reply]:
        return self._run("cancel", [raw_id(change.job_id), self._now], reply_of)

    def requeue(self, change: Requeue) -> Command[Reply]:
        changed = [change.parameters or "", raw_id(change.limit_key)]
        ended = "1" if change.ended else ""
        arguments = [raw_id(change.job_id), due_word(change.due), *changed, ended, change.key, self._now]
        return self._run("requeue", arguments, reply_of)

    def delete(self, change: Delete) -> Command[Reply]:
        return self._run("delete", [raw_id(change.job_id), self._now], reply_of)

    def requeue_all(self, change: RequeueAll) -> Command[BulkResult]:
        waits = [f"{change.wait_ms:.3f}", f"{change.pause_ms:.3f}"]
        return self._run("requeue_all", [change.after, *_words(change.filter), *waits, self._now], _taken)

    def delete_all(self, change: DeleteAll) -> Command[BulkResult]:
        return self._run("delete_all", [change.after, *_words(change.filter), self._now], _taken)

    def ask(self, change: GetStatus) -> Command[list[JobStatus]]:
        arguments: list[Word] = [change.process, str(_REPLY_BYTES), *map(raw_id, change.job_ids)]
        return self._run("ask", arguments, lambda reply: [*map(_standing, reply)])

    def tidy(self, change: Tidy) -> Command[Tidied]:
        """The consumers first, and then what they say there is to do, one duty after another."""
        if not change.after:
            return self.forget(_GONE_MS, _TIDY_MS)
        duties, _, after = change.after.partition(" ")
        duty, _, others = duties.partition("+")
        step = _DUTIES[duty](self, after)

        def told(answer: Any) -> Any:
            if isinstance(answer, Further):
                return Further(answer.commands, lambda answers: told(answer.join(answers)))
            left = f"{others} " if others else ""
            return replace(answer, after=f"{duties} {answer.after}" if answer.after else left)

        return Command(step.wire, lambda reply: told(step.parse(reply)), step.script)

    def forget(self, idle_ms: int, every_ms: int) -> Command[Tidied]:
        """Look after consumers of whom nobody heard for so long, at most once in so long."""

        def parse(reply: Any) -> Tidied:
            _, after, suspects, parked, began, limited, _ = reply
            said = {"consumers": after, "restore": suspects, "unpark": parked, "shares": limited, "trim": began}
            duties = [duty for duty, is_due in said.items() if is_due]
            return Tidied(after=f"{'+'.join(duties)} {text_id(after)}" if duties else "")

        return self._run("tidy", [str(idle_ms), str(every_ms), "", self._now, ""], parse)

    def consumers(self, after: str) -> Command[Tidied]:
        """Look after consumers, from there on; very many are listed here, as a script would take too long."""

        def parse(reply: Any) -> Any:
            left_off, lists = text_id(reply[1]), reply[-1]
            if not lists:
                return Tidied(after=left_off)
            number, _, start = left_off.partition(" ")
            listing = self._listing(int(number) - 1) if lists == 2 else self.consumers_of(int(number) - 1)
            known = [Command(["ZRANGE", f"{self.prefix}{key}", "0", "-1"], set) for key in ("workers", "fenced")]

            def given(answers: list[Any]) -> Any:
                return Further(
                    [self._run("tidy", [*words, left_off, self._now, "1", *some(*answers)], parse)], first
                )

            def some(listed: Mapping[bytes, int | tuple[int, int]], *known: set[bytes]) -> Iterator[Word]:
                def facts(name: bytes) -> tuple[int, int]:
                    told = listed[name]
                    return told if isinstance(told, tuple) else (told, 0)

                lines = [name for name in listed if name.startswith(b"line:")]
                begin = int(start) % max(1, len(lines))
                lost = [name for name in listed.keys() - set().union(*known) if not is_waiting(name)]
                lost.sort(key=facts, reverse=True)  # who holds jobs first
                for name in [*lost[:MOST_JOBS], *(lines[begin:] + lines[:begin])[:MOST_JOBS]]:
                    pending, idle = facts(name)
                    yield from (name, str(pending), str(idle))

            return Further([listing, *known], given)

        def first(answers: list[Any]) -> Any:
            return answers[0]

        words = [str(_GONE_MS), str(_TIDY_MS)]
        return self._run("tidy", [*words, after, self._now, ""], parse)

    def _listing(self, number: int) -> Command[dict[bytes, tuple[int, int]]]:
        """All consumers of a stream: how many jobs each has pending, and for how many ms it is unheard of."""

        def parse(reply: Any) -> dict[bytes, tuple[int, int]]:
            facts = (dict(zip(flat[::2], flat[1::2], strict=True)) for flat in reply)
            return {each[b"name"]: (each[b"pending"], each[b"idle"]) for each in facts}

        return Command(["XINFO", "CONSUMERS", self.streams[number], GROUP], parse)

    def trim(self, after: str) -> Command[Tidied]:
        """Throw away what is kept no longer."""

        def parse(reply: Any) -> Tidied:
            trimmed, more = reply
            return Tidied(after="more" if more else "", trimmed=trimmed)

        return self._run("trim", [DEFAULT.dead.text, self._now], parse)

    def shares(self, after: str) -> Command[Tidied]:
        """Give up the shares of jobs that do not run, then give lines the turns they have lost, from there on."""
        arguments: list[Word] = [raw_id(after), self._now]
        return self._run("shares", arguments, lambda reply: Tidied(after=text_id(reply[0])))

    def retain(self, change: Retain) -> Command[Reply]:
        kept = [change.retention.of(state) for state in ("completed", "cancelled", "dead")]
        return self._run("retain", [keep.text if keep else "" for keep in kept], reply_of)

    def declare(self, change: Declare) -> Command[bool]:
        return self._run("declare", [change.declaration, "1" if change.done else ""], bool)

    def restore(self, after: str) -> Command[Tidied]:
        """Look after jobs that are neither pending nor still to be read, from there on."""

        def parse(reply: Any) -> Tidied:
            number, start, restored = reply
            return Tidied(restored, f"{number} {start.decode()}" if number else "")

        return self._run("restore", [*(after or "1 -").split(" "), str(_REPLY_BYTES), self._now], parse)

    def unpark_later(self, after: str) -> Command[Tidied]:
        """Do what whoever resumed jobs did not come to."""
        step = self.unpark(Unpark(after))
        return Command(step.wire, lambda reply: Tidied(0, step.parse(reply)), step.script)


def _time(ms: float | None) -> str:
    return "" if ms is None else f"{ms:.0f}"


def _words(wanted: Filter) -> list[bytes | str]:
    """A filter, as scripts take it."""
    texts = [raw_id(text) for text in (wanted.name, wanted.text, wanted.fingerprint, wanted.reason)]
    return [*texts, "" if wanted.older_ms is None else str(wanted.older_ms)]


def _taken(reply: Any) -> BulkResult:
    after, *job_ids = reply
    return BulkResult([*map(text_id, job_ids)], after.decode())


_DUTIES: Mapping[str, Callable[[QueueCommands, str], Command[Tidied]]] = {
    "consumers": QueueCommands.consumers,
    "restore": QueueCommands.restore,
    "unpark": QueueCommands.unpark_later,
    "shares": QueueCommands.shares,
    "trim": QueueCommands.trim,
}
_READS: Mapping[type[Query[Any]], Callable[[QueueCommands, Any], Command[Any]]] = {
    Find: QueueCommands.find,
    FindLimits: QueueCommands.limits,
    FindPauses: QueueCommands.pauses,
    FindWorkers: QueueCommands.workers,
    Scan: QueueCommands.scan,
    GroupDead: QueueCommands.groups,
    Count: QueueCommands.counts,
    ListSchedules: QueueCommands.schedules,
    GetBacklog: QueueCommands.backlog,
}
_CHANGES: Mapping[type[Change[Any]], Callable[[QueueCommands, Any], Command[Any]]] = {
    Cancel: QueueCommands.cancel,
    Requeue: QueueCommands.requeue,
    Delete: QueueCommands.delete,
    RequeueAll: QueueCommands.requeue_all,
    DeleteAll: QueueCommands.delete_all,
    GetStatus: QueueCommands.ask,
    Retain: QueueCommands.retain,
    Declare: QueueCommands.declare,
    Tidy: QueueCommands.tidy,
    Hold: QueueCommands.hold,
    Unhold: QueueCommands.unhold,
    Pause: QueueCommands.pause,
    Resume: QueueCommands.resume,
    Unpark: QueueCommands.unpark,
    SetLimit: QueueCommands.limit,
    PutSchedules: QueueCommands.put_schedule,
    WithdrawSchedules: QueueCommands.withdraw_schedules,
    PauseSchedule: QueueCommands.pause_schedule,
    RemoveSchedule: QueueCommands.remove_schedule,
    Fire: QueueCommands.fire,
}


def _push_answer(reply: Any) -> PushAnswer:
    now_us, *said = reply
    if said == [Reply.STALE.encode()]:
        return PushAnswer(now_us / 1000, None)
    return PushAnswer(now_us / 1000, [pushed(each) for each in said])


def _one_answer(reply: Any) -> PushAnswer:
    word = reply[1]
    if word == b"OK":  # by far the most
        return PushAnswer(reply[0] / 1000, [_ADDED])
    return PushAnswer(reply[0] / 1000, None if word == b"STALE" else [])


def _row(reply: Any) -> Row:
    job_id, place, entry, due, consumer, deliveries, mark, held, flat, now, idle, why, progress = reply
    where = place.decode()
    fields = pairs(flat)
    if where in ASIDE:
        state, priority = State(where), fields.get(b"priority", b"normal").decode("utf-8", "replace")
    elif where.startswith("delayed:"):
        state, priority = State.DELAYED, where.partition(":")[2]
    else:
        priority = where
        state = State.READY if is_waiting(consumer) else State.RUNNING
    ran_ms = int(idle) if state is State.RUNNING else None
    known = Priority(priority) if priority in list(Priority) else Priority.NORMAL
    return Row(
        job_id=job_id.decode("utf-8", "surrogateescape"),
        state=state,
        priority=known,
        key=entry.decode(),
        queued_ms=queued_ms_of(entry.decode()),
        due_ms=int(max(-_FAR, min(float(due), _FAR))) if due else None,
        worker=consumer.decode("utf-8", "replace") if state is State.RUNNING else "",
        deliveries=int(deliveries) if deliveries not in (b"", "") else 0,
        cancelling=mark == b"cancelling",
        fields=fields,
        held=bool(held) and state in (State.READY, State.DELAYED),
        started_ms=None if ran_ms is None else int(now) - ran_ms,
        ran_ms=ran_ms,
        why_waiting=WhyWaiting(why.decode()) if why else None,
        progress=progress,
    )


def _standing(reply: Any) -> JobStatus:
    if reply[0] == b"LATER":
        return JobStatus(Ending.LATER)
    word, *facts, progress = reply
    return replace(_ended(Ending(word.decode()), facts), progress=progress)


def _ended(ending: Ending, facts: Sequence[bytes]) -> JobStatus:
    match ending:
        case Ending.PENDING:
            place, keep = facts
            return JobStatus(ending, place.decode(), keep=_whole(keep) if keep.isdigit() else None)
        case Ending.COMPLETED:
            return JobStatus(ending, value=facts[0])
        case Ending.REFUSED:
            return JobStatus(ending, error=_shown(facts[0]))
        case Ending.DEAD:
            error, error_type, traceback, reason = map(_shown, facts)
            return JobStatus(ending, error=error, error_type=error_type, traceback=traceback, reason=reason)
        case _:
            return JobStatus(ending)


def _group(reply: Any) -> Group:
    fingerprint, reason, error_type, count, first_ms, last_ms, job_id, error, *names = reply
    return Group(
        fingerprint=_shown(fingerprint),
        reason=_shown(reason),
        error_type=_shown(error_type),
        count=count,
        first_ms=first_ms,
        last_ms=last_ms,
        job_id=text_id(job_id),
        error=_shown(error),
        names=[*map(_shown, names)],
    )


def _threes(flat: Sequence[Any]) -> Iterable[tuple[Any, Any, Any]]:
    """A flat list, three by three."""
    return zip(flat[::3], flat[1::3], flat[2::3], strict=True)


def _facts(values: Sequence[bytes | None]) -> dict[str, str]:
    return {fact: _shown(value) for fact, value in zip(FACTS, values, strict=False) if value is not None}


def _shown(text: bytes) -> str:
    return text.decode("utf-8", "replace")


def _whole(value: bytes) -> int:
    """A time in ms; 0 for what somebody has put there by hand and is none."""
    return int(value) if value.isdigit() and len(value) < 16 else 0


def _counts(reply: Any) -> Counts:
    lengths, running, delayed, dead, completed, cancelled, totals, inbox = reply
    counted = {}
    for name, value in pairs(totals).items():
        with suppress(ValueError):  # by hand
            counted[name.decode("utf-8", "replace")] = int(value)
    ready = {
        priority: max(0, length - runs) for priority, length, runs in zip(Priority, lengths, running, strict=True)
    }
    return Counts(ready, sum(running), delayed, dead, counted, completed, cancelled, inbox)


def _backlog(reply: Any) -> Backlog:
    now_ms, workers, since = reply
    words = iter(since)
    waiting = [(Priority(priority.decode()), _since(value)) for priority, value in zip(words, words, strict=True)]
    return backlog_since(waiting, float(now_ms), workers)


def _since(value: bytes) -> float:
    """When a job became ready, in ms: of its entry's id, or a due time, which somebody may have made `-inf`."""
    return float(value.partition(b"-")[0] or 0)

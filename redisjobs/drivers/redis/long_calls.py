"""Queries and changes of several round trips: the client lists consumers if that takes a script too long."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from redisjobs.drivers.redis import moving
from redisjobs.drivers.redis.audit import audit
from redisjobs.drivers.redis.calls import FAR, REPLY_BYTES, command_of
from redisjobs.drivers.redis.commands import GROUP, Command, Commands, Steps, is_waiting, running_of
from redisjobs.drivers.redis.pushes import relay
from redisjobs.drivers.redis.server_facts import check_server
from redisjobs.drivers.redis.wire import Word, pairs, raw_id, shown, text_id, threes
from redisjobs.model.changes import Change, ChangeMany, Tidied, Tidy, Unpark
from redisjobs.model.children import CancelChildren
from redisjobs.model.driver import supported
from redisjobs.model.health import Audit, CheckServer
from redisjobs.model.job import Priority
from redisjobs.model.moving import FindRetention, FindTaken, ForgetTaken, Import, Take
from redisjobs.model.queries import Count, Counts, FindLimits, LimitsFound, Query
from redisjobs.model.relaying import Relay
from redisjobs.model.retention import DEFAULT
from redisjobs.model.transitions import MOST_JOBS, Reply

T = TypeVar("T")

_GONE_MS = 3_600_000  # a consumer that was silent for this long is removed, if it has nothing pending
_TIDY_MS = 55_000  # the queue is tidied once in this time, by the first worker that asks


def _call(commands: Commands, asked: Query[T] | Change[T]) -> Steps[T]:
    (answer,) = yield [command_of(commands, asked)]
    return answer  # type: ignore[no-any-return]


def _change_many(commands: Commands, many: ChangeMany) -> Steps[list[Reply]]:
    return (yield [command_of(commands, change) for change in many.changes])


def _count(commands: Commands, query: Count) -> Steps[Counts]:
    known: dict[int, int] = {}  # running jobs of the streams with very many consumers
    very_many: list[int] = []
    while True:
        again: Command[Any] = commands.run("counts", [])
        *listed, reply = yield [*map(commands.consumers_of, very_many), again]
        known |= dict(zip(very_many, map(running_of, listed), strict=True))
        lengths, counted, delayed, dead, completed, cancelled, totals, inbox, suspended = reply
        running = [known.get(number, many) if many < 0 else many for number, many in enumerate(counted)]
        very_many = [number for number, many in enumerate(running) if many < 0]
        if not very_many:
            break
    counters = {}
    for name, value in pairs(totals).items():
        with suppress(ValueError):  # someone changed it in Redis
            counters[shown(name)] = int(value)
    ready = {
        priority: max(0, length - runs) for priority, length, runs in zip(Priority, lengths, running, strict=True)
    }
    return Counts(ready, sum(running), delayed, dead, counters, completed, cancelled, inbox, suspended)


def _find_limits(commands: Commands, query: FindLimits) -> Steps[LimitsFound]:
    (reply,) = yield [commands.run("limits", [raw_id(query.after)])]
    after, limits, lines, running, very_many = reply
    listed = (yield [commands.consumers_of(number - 1) for number in very_many]) if very_many else []
    waiting = [
        (shown(bucket), many, int(max(0, min(float(turn), FAR))) if turn else None)
        for bucket, count, turn in threes(lines)
        if (many := count + sum(consumers.get(b"line:" + bucket, 0) for consumers in listed))
    ]
    held = [(shown(bucket), shown(worker), text_id(job_id)) for bucket, worker, job_id in threes(running)]
    return LimitsFound(
        {shown(name): shown(text) for name, text in pairs(limits).items()}, waiting, held, text_id(after)
    )


def _unpark(commands: Commands, change: Unpark) -> Steps[str]:
    note, number, start = change.after.split(" ") if change.after else ("", "1", "-")
    (reply,) = yield [commands.run("unpark", [note, number, start, REPLY_BYTES])]
    note, number, start = reply
    return f"{note.decode()} {number} {start.decode()}" if number else ""


def _tidy(commands: Commands, change: Tidy) -> Steps[Tidied]:
    """Find out which duties are due; each further call does one step of one duty."""
    if not change.after:
        (begun,) = yield [begin_tidying(commands, _GONE_MS, _TIDY_MS)]
        return begun  # type: ignore[no-any-return]
    duties, _, after = change.after.partition(" ")
    duty, _, others = duties.partition("+")
    step = yield from _DUTIES[duty](commands, after)
    left = f"{others} " if others else ""
    return replace(step, after=f"{duties} {step.after}" if step.after else left)


def begin_tidying(commands: Commands, gone_ms: int, every_ms: int) -> Command[Tidied]:
    """Look at the consumers, at most once in `every_ms`; parses to the duties that are due."""

    def parse(reply: Any) -> Tidied:
        _, after, suspects, parked, trims, limited, cancels, _ = reply
        due = {"consumers": after, "restore": suspects, "unpark": parked, "shares": limited, "children": cancels}
        due["trim"] = trims
        duties = [duty for duty, is_due in due.items() if is_due]
        return Tidied(after=f"{'+'.join(duties)} {text_id(after)}" if duties else "")

    return commands.run("tidy", [str(gone_ms), str(every_ms), "", commands.now, ""], parse)


def _consumers(commands: Commands, after: str) -> Steps[Tidied]:
    def look(after: str, *listed: Word) -> Command[Any]:
        words = [str(_GONE_MS), str(_TIDY_MS), after, commands.now, *(listed or [""])]
        return commands.run("tidy", words)

    (reply,) = yield [look(after)]
    while reply[-1]:  # very many: we list them for the script
        after = text_id(reply[1])
        number, _, start = after.partition(" ")
        stream = int(number) - 1
        listing = _listing(commands, stream) if reply[-1] == 2 else commands.consumers_of(stream)
        known = [Command(["ZRANGE", commands.prefix + key, "0", "-1"], set) for key in ("workers", "fenced")]
        answers = yield [listing, *known]
        (reply,) = yield [look(after, "1", *_to_look_at(int(start), *answers))]
    return Tidied(after=text_id(reply[1]))


def _listing(commands: Commands, stream: int) -> Command[dict[bytes, tuple[int, int]]]:
    """List all consumers of a stream: the number of jobs that each has pending, and its ms of silence."""

    def parse(reply: Any) -> dict[bytes, tuple[int, int]]:
        facts = (dict(zip(flat[::2], flat[1::2], strict=True)) for flat in reply)
        return {each[b"name"]: (each[b"pending"], each[b"idle"]) for each in facts}

    return Command(["XINFO", "CONSUMERS", commands.streams[stream], GROUP], parse)


def _to_look_at(
    start: int, listed: Mapping[bytes, int | tuple[int, int]], workers: set[bytes], fenced: set[bytes]
) -> Iterator[Word]:
    """Choose consumers for the script to look at, with facts: unknown ones, and 500 lines from `start` on."""

    def facts(name: bytes) -> tuple[int, int]:
        found = listed[name]
        return found if isinstance(found, tuple) else (found, 0)

    lines = [name for name in listed if name.startswith(b"line:")]
    begin = start % max(1, len(lines))
    lost = [name for name in listed.keys() - workers - fenced if not is_waiting(name)]
    lost.sort(key=facts, reverse=True)  # consumers that hold jobs first
    for name in [*lost[:MOST_JOBS], *(lines[begin:] + lines[:begin])[:MOST_JOBS]]:
        pending, idle = facts(name)
        yield from (name, str(pending), str(idle))


def _restore(commands: Commands, after: str) -> Steps[Tidied]:
    """Hand back jobs that are neither pending nor unread."""
    words = [*(after or "1 -").split(" "), REPLY_BYTES, commands.now]
    (reply,) = yield [commands.run("restore", words)]
    number, start, restored = reply
    return Tidied(restored, f"{number} {start.decode()}" if number else "")


def _unpark_later(commands: Commands, after: str) -> Steps[Tidied]:
    """Hand back parked jobs that the steps after a `Resume` did not reach."""
    return Tidied(after=(yield from _unpark(commands, Unpark(after))))


def _shares(commands: Commands, after: str) -> Steps[Tidied]:
    """Free the shares of jobs that do not run, then give lines the turns that they have lost."""
    (reply,) = yield [commands.run("shares", [raw_id(after), commands.now])]
    return Tidied(after=text_id(reply[0]))


def _cancel_children(commands: Commands, after: str) -> Steps[Tidied]:
    """Cancel children whose parent was cancelled."""
    (more,) = yield [command_of(commands, CancelChildren())]
    return Tidied(after="more" if more else "")


def _trim(commands: Commands, after: str) -> Steps[Tidied]:
    """Delete jobs that are older, or more, than the retention allows."""
    (reply,) = yield [commands.run("trim", [DEFAULT.dead.text, commands.now])]
    trimmed, more = reply
    return Tidied(after="more" if more else "", trimmed=trimmed)


_DUTIES: Mapping[str, Callable[[Commands, str], Steps[Tidied]]] = {
    "consumers": _consumers,
    "restore": _restore,
    "unpark": _unpark_later,
    "shares": _shares,
    "children": _cancel_children,
    "trim": _trim,
}

_LONG_CALLS: Mapping[type[Any], Callable[[Commands, Any], Steps[Any]]] = {
    ChangeMany: _change_many,
    Count: _count,
    FindLimits: _find_limits,
    Unpark: _unpark,
    Tidy: _tidy,
    CheckServer: check_server,
    Relay: relay,
    Take: moving.take,
    FindTaken: moving.find_taken,
    ForgetTaken: moving.forget_taken,
    Import: moving.import_jobs,
    FindRetention: moving.find_retention,
    Audit: lambda commands, change: audit(commands, change, _tidy),
}


def read(commands: Commands, query: Query[T]) -> Steps[T]:
    """Answer a query; raise Unsupported for an unknown one, or for a value that is no query."""
    return _steps(commands, query) if isinstance(query, Query) else supported({}, query, "Redis")


def change(commands: Commands, change: Change[T]) -> Steps[T]:
    """Make a change; raise Unsupported for an unknown one, or for a value that is no change."""
    return _steps(commands, change) if isinstance(change, Change) else supported({}, change, "Redis")


def _steps(commands: Commands, asked: Query[T] | Change[T]) -> Steps[T]:
    return _LONG_CALLS.get(type(asked), _call)(commands, asked)

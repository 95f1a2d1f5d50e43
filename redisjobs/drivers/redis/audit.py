"""Steps of an audit: lists the members of a key, and lets `audit.lua` check them.

To find keys that nothing refers to, it goes through all keys of the server by SCAN. Nothing else here does so.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from redisjobs.drivers.redis.commands import Command, Commands, Steps
from redisjobs.drivers.redis.wire import raw_id, shown, text_id
from redisjobs.errors import DriverError, Unavailable
from redisjobs.model.changes import Tidied, Tidy
from redisjobs.model.health import Audit, Audited, Fault

Tidying = Callable[[Commands, Tidy], Steps[Tidied]]

_HASHES = ("delayed", "jobs", "held", "waiters", "signals", "history", "shares")
_SETS = ("due", "suspended", "lines", "groups")
_PARTS = ("high", "normal", "low", "dead", "due", "suspended", "delayed", "jobs", "held", "waiters", "signals")
_ALL = (*_PARTS, "history", "shares", "lines", "groups", "keys", "tidy")
"""The parts in order. An entry gives a lost locator back before `jobs` removes those that name no entry."""

_TIDY = "tidy consumers+restore+unpark+shares 1 0"  # what `tidy.lua` repairs: see `TIDIED` in `client/findings.py`
_PAGE, _MOST = 100, 500  # members of the first page, and of any; a page of large values gets smaller
_PAGE_BYTES = 512 * 1024
_KEYS = "500"  # keys of the server that one SCAN goes through

_LASTING = frozenset(
    (
        "inbox ready:high ready:normal ready:low dead completed cancelled retention paused paused:names held "
        "limits jobs due suspended delayed large stats workers fenced layout schedules groups history shares "
        "lines turns taken signals cancelling"
    ).split()
)
_CHECKED = (
    "unique",
    "worker",
    "holders",
    "group",
    "schedule",
    "steps",
    "children",
)  # families of keys that the script checks
_NOTED = ("relayed", "imported")  # and families that nothing else refers to
_EXPIRING = re.compile(
    "(finished|conflict|result|outcome|progress|chunks|rate|minute|ten|recorded|schedulers):|(waiters|promoter|schedulers)$"
)


def audit(commands: Commands, change: Audit, tidying: Tidying) -> Steps[Audited]:
    """Make one step of an audit. A part that the server refuses to show is skipped, with the error."""
    if not change.after:
        return (yield from _begin(commands))
    part, _, cursor = change.after.partition(" ")
    following = _after(part, repair=change.repair)
    try:
        done = yield from _step(commands, change, part, cursor, tidying)
    except Unavailable:
        raise
    except DriverError as error:
        return Audited(following, part, error=str(error))
    return replace(done, after=done.after or following)


def _after(part: str, *, repair: bool) -> str:
    rest = _ALL[_ALL.index(part) + 1 :]
    return "" if not rest or (rest[0] == "tidy" and not repair) else _TIDY if rest[0] == "tidy" else f"{rest[0]} "


def _begin(commands: Commands) -> Steps[Audited]:
    """Count what there is to look at."""
    streams = [*commands.streams, f"{commands.prefix}dead"]
    sizes = [Command(["XLEN", stream], int, when_refused=0) for stream in streams]
    sizes += [Command(["HLEN", commands.prefix + key], int, when_refused=0) for key in _HASHES]
    sizes += [Command(["ZCARD", commands.prefix + key], int, when_refused=0) for key in _SETS]
    return Audited(f"{_ALL[0]} ", "", total=sum((yield sizes)))


def _step(commands: Commands, change: Audit, part: str, cursor: str, tidying: Tidying) -> Steps[Audited]:
    if part == "tidy":
        tidied = yield from tidying(commands, Tidy(cursor))
        return Audited(f"tidy {tidied.after}" if tidied.after else "", part)
    if part == "keys":
        return (yield from _keys(commands, change, cursor))
    if part == "groups" and "\n" in cursor:
        return (yield from _letters(commands, change, cursor))
    if part in (*_HASHES, *_SETS):
        return (yield from _members(commands, change, part, cursor))
    (reply,) = yield [_check(commands, change, "entries", [], place=part, start=cursor or "-")]
    return _audited(part, [reply], f"{part} {shown(reply[1])}" if reply[1] else "")


def _check(
    commands: Commands, change: Audit, part: str, members: Sequence[bytes], place: str = "", start: str = ""
) -> Command[Any]:
    repairs = "1" if change.repair else ""
    return commands.run("audit", [part, repairs, raw_id(place), start, commands.now, *members])


def _check_all(
    commands: Commands, change: Audit, part: str, members: Sequence[bytes], place: str = ""
) -> Steps[list[Any]]:
    """Check members in as many calls as it takes."""
    replies: list[Any] = []
    while members:
        (reply,) = yield [_check(commands, change, part, members, place)]
        replies.append(reply)
        members = members[max(1, reply[0]) :]
    return replies


def _audited(part: str, replies: Sequence[Any], after: str, faults: Sequence[Fault] = ()) -> Audited:
    found = [
        Fault(shown(kind), text_id(what), bool(repaired))
        for reply in replies
        for kind, what, repaired in reply[3:]
    ]
    names = [reply[2] for reply in replies]
    waiting = {shown(name): many for flat in names for name, many in zip(flat[::2], flat[1::2], strict=True)}
    return Audited(after, part, sum(reply[0] for reply in replies), 0, [*faults, *found], waiting)


def _members(commands: Commands, change: Audit, part: str, cursor: str) -> Steps[Audited]:
    at, _, size = cursor.partition(" ")
    word, many = "ZSCAN" if part in _SETS else "HSCAN", int(size or _PAGE)
    ((begin, flat),) = yield [Command([word, commands.prefix + part, at or "0", "COUNT", str(many)])]
    members, read = flat[::2], sum(map(len, flat))
    replies = yield from _check_all(commands, change, part, members)
    many = max(10, min(_MOST, _PAGE_BYTES * max(1, len(members)) // max(1, read)))
    after = "" if begin == b"0" else f"{part} {begin.decode()} {many}"
    if part == "groups" and members:
        after = "groups " + "\n".join([f"{begin.decode()} 0", *map(text_id, members)])
    return _audited(part, replies, after)


def _letters(commands: Commands, change: Audit, cursor: str) -> Steps[Audited]:
    """Check the members of one group. The cursor has a line for `groups`, then the kinds still to be looked at."""
    where, *kinds = cursor.split("\n")
    begin, _, at = where.partition(" ")
    key = f"{commands.prefix}group:".encode() + raw_id(kinds[0])
    ((following, flat),) = yield [Command(["ZSCAN", key, at, "COUNT", str(_MOST)])]
    replies = yield from _check_all(commands, change, "letters", flat[::2], kinds[0])
    left = kinds if following != b"0" else kinds[1:]
    if left:
        return _audited("groups", replies, "groups " + "\n".join([f"{begin} {following.decode()}", *left]))
    return _audited("groups", replies, "" if begin == "0" else f"groups {begin}")


def _keys(commands: Commands, change: Audit, cursor: str) -> Steps[Audited]:
    """Check some keys of the server that belong to the queue."""
    pattern = re.sub(r"([*?\[\]\\^])", r"\\\1", commands.prefix) + "*"
    ((begin, found),) = yield [Command(["SCAN", cursor or "0", "MATCH", pattern, "COUNT", _KEYS])]
    names = sorted({key[len(commands.prefix.encode()) :] for key in found})
    expiring = [name for name in names if _EXPIRING.match(shown(name))]
    lives = (
        (yield [Command(["PTTL", commands.prefix.encode() + name], int) for name in expiring]) if expiring else []
    )
    faults = [Fault("no ttl", text_id(name)) for name, ms in zip(expiring, lives, strict=True) if ms == -1]
    faults += [Fault("unknown key", text_id(name)) for name in names if not _is_known(name, expiring)]
    replies = []
    for family in _CHECKED:
        members = [rest for first, rest in _parted(names) if first == family]
        replies += yield from _check_all(commands, change, family, members)
    return _audited("keys", replies, "" if begin == b"0" else f"keys {begin.decode()}", faults)


def _parted(names: Sequence[bytes]) -> Iterator[tuple[str, bytes]]:
    for name in names:
        family, colon, rest = name.partition(b":")
        if colon:
            yield shown(family), rest


def _is_known(name: bytes, expiring: Sequence[bytes]) -> bool:
    return shown(name) in _LASTING or name in expiring or shown(name.partition(b":")[0]) in (*_CHECKED, *_NOTED)

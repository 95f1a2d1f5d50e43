"""What a server says about itself, how far away it is, and which commands its ACL refuses to the user."""

import re
import time
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from redisjobs.drivers.redis import scripts
from redisjobs.drivers.redis.commands import Command, Commands, Steps
from redisjobs.drivers.redis.wire import Wire, shown
from redisjobs.model.health import CheckServer, ServerFacts

_PINGS = 20
_REFUSED: Any = object()
_SECTIONS = ("server", "memory", "persistence", "replication", "cluster")
_CALL = re.compile(r"redis\.p?call\('([A-Z]+)'(?:, '(CREATE|DELCONSUMER|GROUPS|CONSUMERS)')?")
_PLAIN: Mapping[str, str] = {
    "EVALSHA": "every call",
    "SCRIPT|LOAD": "every call",
    "XREADGROUP": "workers",
    "SUBSCRIBE": "workers, waits",
}
"""Commands that are sent outside scripts, and who needs them."""


def check_server(commands: Commands, query: CheckServer) -> Steps[ServerFacts]:
    """Ask the server about itself; what it does not answer is left out."""
    before_ms, began = (yield [_time()])[0], time.time()
    pings = []
    for _ in range(_PINGS):
        sent = time.perf_counter()
        yield [Command(["PING"], when_refused=_REFUSED)]  # the answer takes as long
        pings.append(time.perf_counter() - sent)
    *infos, large, slow, who = yield [
        *(Command(["INFO", section], _info, when_refused=dict[str, str]()) for section in _SECTIONS),
        Command(["HGETALL", f"{commands.prefix}large"], _large, when_refused=dict[str, str]()),
        Command(["SLOWLOG", "GET", "128"], lambda reply: _slow(reply, commands.prefix), when_refused=_REFUSED),
        Command(["ACL", "WHOAMI"], shown, when_refused=""),
    ]
    refused = yield from _refused(commands, who)
    now_ms, ended = (yield [_time()])[0], time.time()
    facts = {name: value for info in infos for name, value in info.items()} | large
    offsets = [ms / 1000 - at for ms, at in ((before_ms, began), (now_ms, ended))]
    return ServerFacts(
        int(now_ms), facts, pings, offsets[1], offsets[1] - offsets[0], None if slow is _REFUSED else slow, refused
    )


def _time() -> Command[float]:
    return Command(["TIME"], lambda reply: int(reply[0]) * 1000 + int(reply[1]) / 1000)


def _info(reply: Any) -> dict[str, str]:
    lines = shown(reply).splitlines() if isinstance(reply, bytes) else str(reply).splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def _large(reply: Any) -> dict[str, str]:
    """Return how many priorities have unread large jobs, and the bytes of the largest."""
    values = reply.values() if isinstance(reply, dict) else reply[1::2]
    sizes = [int(found[1]) for value in values if (found := re.match(rb"\S+ (\d+)", value))]
    return {"large": str(len(sizes)), "largest_bytes": str(max(sizes))} if sizes else {}


def _slow(reply: Any, prefix: str) -> list[float]:
    """Return how long slow calls on the keys of the queue took, in seconds."""
    raw = prefix.encode()
    return [entry[2] / 1e6 for entry in reply if any(isinstance(word, bytes) and raw in word for word in entry[3])]


# Permissions


def _refused(commands: Commands, who: str) -> Steps[dict[str, Sequence[str]] | None]:
    """Return the commands that the user may not run, and what needs each; None if we may not ask."""
    uses = _uses()
    infos = (yield [Command(["COMMAND", "INFO", *uses], _arities, when_refused={})])[0]
    asked = [name for name in uses if name in infos or name in _PLAIN]
    dry = [["ACL", "DRYRUN", who, *_words(commands, name, infos.get(name, 0))] for name in asked]
    if not who or not infos:
        return None
    answers = yield [Command(wire, shown, when_refused=_REFUSED) for wire in dry]
    if _REFUSED in answers:
        return None
    return {name: uses[name] for name, said in zip(asked, answers, strict=True) if said != "OK"}


@cache
def _uses() -> dict[str, Sequence[str]]:
    """Return the commands that redisjobs sends, and the scripts that run each."""
    uses: dict[str, list[str]] = {name: [by] for name, by in _PLAIN.items()}
    for name in scripts.names():
        for command, part in _CALL.findall(scripts.script(name).source):
            users = uses.setdefault(f"{command}|{part}" if part else command, [])
            if name not in users:
                users.append(name)
    return dict(uses)


def _arities(reply: Any) -> dict[str, int]:
    return {shown(info[0]).upper(): abs(info[1]) for info in reply if info}


def _words(commands: Commands, name: str, arity: int) -> Wire:
    """Return a call of a command on the queue's keys, for a dry run."""
    key = commands.channel()  # also a name of a key: it begins as all of them
    match name:
        case "EVALSHA":
            return [name, "0" * 40, "1", key]
        case "SCRIPT|LOAD":
            return ["SCRIPT", "LOAD", "return 1"]
        case "XREADGROUP":
            return [name, "GROUP", "workers", "w", "STREAMS", key, ">"]
        case "SUBSCRIBE":
            return [name, key]
    first, _, part = name.partition("|")
    head: list[str] = [first, part] if part else [first]
    if len(head) >= arity:
        return head
    return [*head, key, *["1"] * (arity - len(head) - 1)]

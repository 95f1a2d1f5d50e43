"""What real workers and producers send, as `MONITOR` shows it, and how a stand-in repeats it."""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from redisjobs.drivers.redis import scripts
from redisjobs.drivers.redis.commands import Command

_LINE = re.compile(rb'^\+[\d.]+ \[\d+ (\S+)\] (".*")\r?$', re.MULTILINE)
_WORD = re.compile(rb'"((?:[^"\\]|\\.)*)"')
_WORKER = re.compile(r"[^:]+:\d+:[0-9a-f]{8}")  # a worker's id: host, pid, random
_RANDOM = re.compile("[0-9a-f]{16}")  # the id of a part of a worker
_OPENING = {"auth", "client", "hello", "hget", "info", "join", "script", "select", "subscribe"}
_OF_JOBS = {"claim", "exists", "ping", "push", "push_one", "push_plain", "screen", "settle", "xreadgroup"}


@dataclass(frozen=True)
class Timer:
    """A command that a worker sends from time to time, however few jobs there are.

    Attributes:
        name: Of the script, or of the command.
        every: Seconds between two of them, of one worker.
        words: One of them, as it was sent.
    """

    name: str
    every: float
    words: Sequence[str]

    def command(self, worker: str, number: int) -> Command[object]:
        """Return it as another worker would send it, for the `number`th time."""
        words = [_own(word, worker) for word in self.words]
        if self.name == "record":  # a number that came before would add nothing
            words[4 + int(words[2])] = str(number)
        return Command(words, script=_script_of(words))


def sent(monitored: bytes) -> list[list[str]]:
    """Return the words of each command of clients; what a script ran is marked with `lua`."""
    return [
        [_text(word) for word in _WORD.findall(line)]
        for client, line in _LINE.findall(monitored)
        if client != b"lua" and line.lower() != b'"monitor"'
    ]


def name_of(words: Sequence[str]) -> str:
    """Return the name of the script that a command runs, else its own; with its key where only that tells."""
    name = words[0].lower()
    if name == "evalsha":
        return _names().get(words[1], "evalsha")
    if name == "xpending" or (name == "exists" and words[1].endswith(":paused")):
        return f"{name} {words[1].partition('}:')[2]}"
    return name


def counts(commands: Sequence[Sequence[str]]) -> Counter[str]:
    """Count commands by name, without those that open a connection."""
    found = Counter(map(name_of, commands))
    return Counter({name: count for name, count in found.items() if name not in _OPENING})


def timers(commands: Sequence[Sequence[str]], workers: int, seconds: float) -> list[Timer]:
    """Return what `workers` workers sent in these seconds beside what jobs cause."""
    last = {name_of(words): words for words in commands}
    return [
        Timer(name, workers * seconds / count, last[name])
        for name, count in counts(commands).items()
        if name not in _OF_JOBS
    ]


def _text(word: bytes) -> str:
    return word.decode("unicode_escape").encode("latin-1").decode("utf-8", "replace")


def _own(word: str, worker: str) -> str:
    if _WORKER.fullmatch(word):
        return worker
    if _RANDOM.fullmatch(word):
        return hashlib.sha256(f"{word} {worker}".encode()).hexdigest()[:16]
    return word


@cache
def _names() -> dict[str, str]:
    made = ((name, scripts.script(name)) for name in scripts.names())
    return {each.sha: name for name, script in made for each in (script, script.careful)}


def _script_of(words: Sequence[str]) -> scripts.Script | None:
    if words[0].lower() != "evalsha":
        return None
    script = scripts.script(_names()[words[1]])
    return script if script.sha == words[1] else script.careful

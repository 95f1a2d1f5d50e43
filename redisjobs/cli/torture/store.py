"""The torture's own view of the store: straight, past the proxies; with all that an operator may do."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from redisjobs.driver import Counts, NewJob
from redisjobs.drivers.commands import GROUP, Command, Commands
from redisjobs.drivers.link import SyncLink, Target
from redisjobs.errors import DriverError

_PAGE = 1000


@dataclass(slots=True)
class Final:
    """What is in the store when all is over.

    Attributes:
        dead: For each dead letter, by job id, its reason.
        left: What should not be there any more, in words.
        located: Ids the locator still knows, where they are said to be.
        totals: The counters.
    """

    dead: dict[str, str] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    located: dict[str, str] = field(default_factory=dict)
    totals: dict[str, int] = field(default_factory=dict)


class Store:
    """One connection to the server of a queue; for one thread.

    Args:
        url: The server's.
        queue: The queue's name; plain, so that it is no pattern.
    """

    def __init__(self, url: str, queue: str) -> None:
        self.commands = Commands(queue)
        self._link = SyncLink(self.commands, Target(url))

    def run(self, *wire: Any) -> Any:
        """Run one command; its reply, in bytes.

        Raises:
            DriverError: It failed.
        """
        return self._link.run(Command(wire, lambda reply: reply))[0]

    def counts(self) -> Counts:
        """How many jobs are in each state."""
        return self._link.run(self.commands.counts())[0]  # type: ignore[no-any-return]

    def push(self, jobs: Sequence[NewJob]) -> None:
        """Push jobs, once."""
        for _ in range(2):  # the first answer may only tell the time that it is there
            (answer,) = self._link.run(self.commands.push(jobs, repeated=True, sent_ms=self._link.clock.now_ms))
            self._link.clock.hear(answer.server_ms)

    def put(self, fields: Mapping[str, str | bytes]) -> str:
        """Add an entry by hand; its id."""
        flat = [text for pair in fields.items() for text in pair]
        return str(self.run("XADD", self.commands.streams[1], "*", *flat).decode())

    def final(self) -> Final:
        """Look at all that is left."""
        final = Final(totals=dict(self.counts().totals))
        prefix = self.commands.prefix
        for letter in self._letters():
            final.dead[letter[b"id"].decode("utf-8", "replace")] = letter.get(b"reason", b"").decode()
        located = self.run("HGETALL", f"{prefix}jobs")
        for job, place in zip(located[::2], located[1::2], strict=True):
            final.located[job.decode("utf-8", "replace")] = place.decode()
        for stream in self.commands.streams:
            if entries := self.run("XLEN", stream):
                final.left.append(f"{entries} entries in {stream}")
            with suppress(DriverError):  # no worker ever came
                if pending := self.run("XPENDING", stream, GROUP)[0]:
                    final.left.append(f"{pending} leases in {stream}")
        for job, place in final.located.items():
            if not place.startswith("dead "):
                final.left.append(f"{job} in the locator, at {place}")
            elif job not in final.dead:
                final.left.append(f"{job} in the locator as dead, but no dead letter")
        for kind, command in {"due": "ZCARD", "delayed": "HLEN"}.items():
            if number := self.run(command, prefix + kind):
                final.left.append(f"{number} jobs in {kind}")
        lasting = {prefix + name for name in ("ready:high", "ready:normal", "ready:low", "jobs", "dead", "stats")}
        for key in self.keys():
            if key not in lasting and self.run("PTTL", key) == -1:
                final.left.append(f"the key {key}")
        return final

    def _letters(self) -> Iterator[dict[bytes, bytes]]:
        start = "-"
        while page := self.run("XRANGE", f"{self.commands.prefix}dead", start, "+", "COUNT", _PAGE):
            for _, flat in page:
                yield dict(zip(flat[::2], flat[1::2], strict=True))
            start = f"({page[-1][0].decode()}"

    def keys(self) -> Sequence[str]:
        """Every key of the queue."""
        found: set[str] = set()
        cursor = b"0"
        while True:
            cursor, keys = self.run("SCAN", cursor, "MATCH", f"{self.commands.prefix}*", "COUNT", _PAGE)
            found.update(key.decode() for key in keys)
            if cursor == b"0":
                return sorted(found)

    def remove(self) -> None:
        """Take all of the queue's keys away."""
        if keys := self.keys():
            self.run("DEL", *keys)

    def close(self) -> None:
        """Close the connection."""
        self._link.close()

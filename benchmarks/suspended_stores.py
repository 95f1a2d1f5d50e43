"""The servers of `python -m benchmarks.suspended`, and the longest of their calls."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import redis

from redisjobs.drivers.postgres import schema
from redisjobs.drivers.redis import scripts
from redisjobs.local import postgres_server, server

SLOW = 20.0  # ms that no call of the server may take
_NAMES = {scripts.script(name).sha: name for name in scripts.names()}


@dataclass(slots=True)
class Store:
    """A server with nothing on it.

    Attributes:
        url: Where it is.
        description: What it is.
        slow: The calls that took longer than they may: by what was called, ms.
    """

    url: str
    description: str
    slow: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def used(self) -> float:
        """Bytes of all that is stored."""
        raise NotImplementedError

    def calls(self) -> list[tuple[str, float]]:
        """The calls since this was asked last, maybe without the shortest ones: what was called, and ms."""
        raise NotImplementedError

    def longest(self) -> float:
        """How long the longest call took since this was asked last, in ms."""
        calls = self.calls()
        for called, took in calls:
            if took > SLOW:
                self.slow[called].append(took)
        return max((took for _, took in calls), default=0.0)


@dataclass(slots=True)
class OnRedis(Store):
    """A Redis server."""

    _admin: Any = field(init=False)

    def __post_init__(self) -> None:
        self._admin = redis.Redis.from_url(self.url)
        self._admin.config_set("slowlog-log-slower-than", 100)
        self._admin.config_set("slowlog-max-len", 10_000)

    def used(self) -> float:  # noqa: D102
        return float(self._admin.info("memory")["used_memory"])

    def calls(self) -> list[tuple[str, float]]:  # noqa: D102
        calls = self._admin.slowlog_get(10_000)
        self._admin.slowlog_reset()
        return [(_called(call["command"].decode(errors="replace")), call["duration"] / 1000) for call in calls]


def _called(command: str) -> str:
    """The name of the script that a command calls; else that of the command."""
    name, sha, *_ = [*command.split(" ", 2), ""]
    return _NAMES.get(sha, name)


@dataclass(slots=True)
class OnPostgres(Store):
    """A PostgreSQL server with the tables of redisjobs."""

    log: Path = field(kw_only=True)
    _read: int = 0  # of the log

    def __post_init__(self) -> None:
        for _ in schema.migrate(self.url):
            pass

    def used(self) -> float:  # noqa: D102
        asked = "select sum(pg_total_relation_size(oid)) from pg_class where relkind = 'r' and oid >= 16384"
        with psycopg.connect(self.url, autocommit=True) as connection:
            row = connection.execute(asked).fetchone()
        return float(row[0]) if row else 0.0

    def calls(self) -> list[tuple[str, float]]:  # noqa: D102
        with open(self.log, "rb") as log:
            log.seek(self._read)
            text, self._read = log.read().decode(errors="replace"), log.tell()
        found = (line.partition("duration: ")[2] for line in text.splitlines() if "duration: " in line)
        parted = (one.partition(" ms  ") for one in found)
        return [(said.partition(": ")[2][:90], float(took)) for took, _, said in parted]


@contextmanager
def _on_redis() -> Iterator[Store]:
    with server.start(options=("--appendonly", "no")) as running:
        yield OnRedis(running.url, running.description)


@contextmanager
def _on_postgres() -> Iterator[Store]:
    settings = ("shared_buffers=256MB", "max_wal_size=4GB", "log_min_duration_statement=1")
    options = [word for setting in settings for word in ("-c", setting)]
    with postgres_server.start(options=options, durable=False) as running:
        yield OnPostgres(running.url, f"{running.description}, fsync off", log=running.directory / "server.log")


STORES: dict[str, Callable[[], AbstractContextManager[Store]]] = {"redis": _on_redis, "postgres": _on_postgres}
"""A Redis server without a disk, and a PostgreSQL server that does not wait for its disk."""

"""Pushes, as calls of functions in the database."""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from redisjobs.drivers.postgres.calls import Call, Meta, Row, answer_of
from redisjobs.drivers.postgres.entries import given_json, new_job
from redisjobs.drivers.postgres.errors import Locked
from redisjobs.drivers.postgres.functions import statement
from redisjobs.drivers.postgres.notices import Notice
from redisjobs.drivers.postgres.wire import notices_of
from redisjobs.drivers.postgres.within import Transaction
from redisjobs.errors import NoTransaction
from redisjobs.model.driver import Unsupported
from redisjobs.model.transitions import MOST_JOBS, NewJob, Pushed, Reply

TellAfter = Callable[[Transaction, Sequence[Notice]], object]

_OK = Pushed(Reply.OK)
_PAUSES = (0.02, 0.5)  # seconds between two tries of a push that waits: at first, and at most
_COLUMNS = ("id", "name", "parameters", "rank", "extra", "limit_key", "after", "at", "expires_in")


def push(
    jobs: Sequence[NewJob], *, repeated: bool, sent_ms: float, apart: bool = False
) -> Call[list[Pushed] | None]:
    """Push jobs; see `Driver.push`. None: the call came too late, or the clock was set, and nothing was written.

    `sent_ms` is the time by the database's clock, or a little earlier. If a job has to wait for another
    transaction, the call fails with `Locked`, and nothing was written; with `apart`, that job's answer is BUSY.
    """
    if any(job.replicas for job in jobs):
        raise Unsupported(
            "replicas= is for Redis; in Postgres a commit waits for replicas by synchronous_standby_names: leave "
            "replicas= out. Nothing was sent"
        )
    made = [new_job(job) for job in jobs]
    if repeated or any(job.nonce or job.unique for job in jobs):
        return Call("push", [orjson.dumps(made).decode(), repeated, int(sent_ms), apart], _in_time)
    rows = [
        (*[job.get(name) for name in _COLUMNS[:4]], _json(job.get("extra")), *map(job.get, _COLUMNS[5:]))
        for job in made
    ]
    columns = [list(column) for column in zip(*rows, strict=True)]
    return Call("push_plain", [*columns, int(sent_ms)], lambda meta, _: _plain(meta, len(jobs)))


class BusyPush:
    """The answers to a push whose jobs are tried again while another transaction has taken their key or id.

    Between two tries the push keeps no connection, so no other push waits for it. `until` is by the monotonic
    clock.
    """

    def __init__(self, jobs: Sequence[NewJob], answers: list[Pushed], repeated: bool, until: float) -> None:
        self.answers = answers
        self._jobs, self._repeated, self._until = jobs, repeated, until
        self._pause = _PAUSES[0]
        self._places: Sequence[int] = ()  # of the jobs that wait

    def left(self) -> list[NewJob]:
        """Return the jobs that wait."""
        self._places = [at for at, answer in enumerate(self.answers) if answer.reply is Reply.BUSY]
        left = [self._jobs[at] for at in self._places]
        for job in () if self._repeated else left:
            job.sent_ms = None  # nothing was written
        return left

    def pause(self) -> float:
        """Return the seconds until the next try.

        Raises:
            Locked: It would be too late.
        """
        pause, self._pause = self._pause, min(2 * self._pause, _PAUSES[1])
        if time.monotonic() + pause >= self._until:
            job = self._jobs[self._places[0]]
            what = f"the unique key {job.unique!r}" if job.unique else f"the id {job.job_id!r}"
            raise Locked(f"another transaction, which is not committed yet, has taken {what}")
        return pause

    def take(self, answers: Sequence[Pushed]) -> None:
        """Take the answers to the jobs that waited."""
        for at, answer in zip(self._places, answers, strict=True):
            self.answers[at] = answer


def identity() -> Call[str]:
    """Return what tells the queue's database from others."""
    return Call("identity", [], answer_of(str))


@dataclass(frozen=True, slots=True)
class Written:
    """A statement that pushes jobs within a transaction of the caller's.

    Attributes:
        statement: With `%s` for each value.
        values: The values.
        tell: Sends notices once a transaction has ended.
    """

    statement: str
    values: Sequence[Any]
    tell: TellAfter
    _notices: list[Notice] = field(default_factory=list)

    def answers(self, rows: Sequence[Sequence[Any]]) -> list[Pushed]:
        """Return the answers to its jobs, given its rows.

        Raises:
            NoTransaction: The transaction is one of another database than the queue's. Nothing was written.
        """
        meta = given_json(rows[0][0])
        if meta["a"] == "ELSEWHERE":
            raise NoTransaction(
                "within= a connection to another database than the queue's: give a connection to that one, or use "
                "a queue in this database. Nothing was written"
            )
        self._notices.extend(notices_of(meta))
        return answers_of(meta, ())

    def follow(self, transaction: Transaction) -> None:
        """Notify workers once the transaction has ended."""
        if self._notices:
            self.tell(transaction, self._notices)


def within(
    queue: str, now_ms: int | None, database: str, jobs: Sequence[NewJob], tell: TellAfter
) -> list[Written]:
    """Return the statements that push jobs within a transaction; `database` is the queue's `identity`."""
    chunks = [jobs[first : first + MOST_JOBS] for first in range(0, len(jobs), MOST_JOBS)]
    packed = [orjson.dumps([new_job(job) for job in chunk]).decode() for chunk in chunks]
    call = re.sub(r"\$\d+", "%s", statement("push_within").decode())
    call = call.replace("%s::jsonb", "%s::text::jsonb")  # a library may encode what it sends as JSON itself
    return [Written(call, (queue, now_ms, database, text), tell) for text in packed]


def _json(fields: dict[str, str] | None) -> str | None:
    return None if fields is None else orjson.dumps(fields).decode()


def _plain(meta: Meta, jobs: int) -> list[Pushed] | None:
    return [_OK] * jobs if meta["a"] == "OK" else _in_time(meta, ())


def _in_time(meta: Meta, _: Sequence[Row]) -> list[Pushed] | None:
    return None if meta["a"] == "STALE" else answers_of(meta, ())


def answers_of(meta: Meta, _: Sequence[Row]) -> list[Pushed]:
    """Return the answers to a push: a word each, or a word and the id of the job that holds the unique key."""
    return [_pushed(answer) for answer in meta["a"]]


def _pushed(answer: Any) -> Pushed:
    word, holder = (answer, "") if isinstance(answer, str) else answer
    return Pushed(Reply(word), holder)

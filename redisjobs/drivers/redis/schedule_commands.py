"""What is said to the server about schedules; see `commands.py`."""

from collections.abc import Sequence
from typing import Any

from redisjobs.drivers.redis.commands import Command, Commands, Word, due_word, pairs, raw_id, reply_of
from redisjobs.job import OnConflict
from redisjobs.schedules.stored import (
    Fire,
    FireAnswer,
    Fired,
    ListSchedules,
    PauseSchedule,
    PutAnswer,
    PutSchedules,
    RemoveSchedule,
    SchedulePage,
    ScheduleRow,
)
from redisjobs.transitions import (
    NewJob,
    Pushed,
    Reply,
)

_REPLY_BYTES = 1024 * 1024  # of schedules in one page, more or less
_CONFLICTS = {OnConflict.SKIP: "", OnConflict.REPLACE: "replace", OnConflict.RAISE: "raise"}


class ScheduleCommands(Commands):
    """The commands of one queue's schedules."""

    def schedules(self, query: ListSchedules) -> Command[SchedulePage]:
        return self._run(
            "schedules", [self._now, raw_id(query.name), raw_id(query.after), str(_REPLY_BYTES)], _page
        )

    def put_schedule(self, change: PutSchedules) -> Command[PutAnswer]:
        words: list[Word] = [self._now, "" if change.declared_by is None else str(change.declared_by)]
        for name, fingerprint, definition in change.schedules:
            fields = definition.fields if definition else []
            words += [raw_id(name), fingerprint, str(len(fields)), *fields]
        return self._run("put_schedule", words, _put_answer)

    def pause_schedule(self, change: PauseSchedule) -> Command[Reply]:
        return self._run("pause_schedule", [self._now, raw_id(change.name), "1" if change.pause else ""], reply_of)

    def remove_schedule(self, change: RemoveSchedule) -> Command[Reply]:
        return self._run("remove_schedule", [self._now, raw_id(change.name)], reply_of)

    def fire(self, change: Fire) -> Command[FireAnswer]:
        words: list[Word] = [self._now, change.scheduler]
        for firing in change.firings:
            words += [raw_id(firing.name), firing.fingerprint]
            words += map(str, (firing.last_ms, firing.slot_ms, firing.missed, len(firing.jobs)))
            for job in firing.jobs:
                words += job_words(job)
        return self._run("fire", words, _fire_answer)


def job_words(job: NewJob) -> list[Word]:
    """A job as `push` and `fire` take it."""
    words: list[Word] = [raw_id(job.job_id), job.nonce, job.priority, due_word(job.due), job.unique]
    words += [
        _text(job.unique_for_ms),
        _text(job.expires_in_ms),
        _CONFLICTS[job.on_conflict],
        str(len(job.fields)),
    ]
    return [*words, *job.fields]


def _text(number: int | None) -> str:
    return "" if number is None else str(number)


def pushed(reply: bytes) -> Pushed:
    """What became of one job."""
    word, _, holder = reply.decode("utf-8", "surrogateescape").partition(" ")
    return Pushed(Reply(word), holder)


def _page(reply: Any) -> SchedulePage:
    now_us, changes, more, *rows = reply
    return SchedulePage([_row(*row) for row in rows], changes, _name(more), now_us / 1000)


def _row(name: bytes, last_slot: bytes, flat: Sequence[bytes]) -> ScheduleRow:
    return ScheduleRow(_name(name), last_slot, pairs(flat))


def _name(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _put_answer(reply: Any) -> PutAnswer:
    now_us, changes, *words = reply
    return PutAnswer([reply_of(word) for word in words], changes, now_us / 1000)


def _fire_answer(reply: Any) -> FireAnswer:
    now_us, *answers = reply
    return FireAnswer([_fired(*answer) for answer in answers], now_us / 1000)


def _fired(word: bytes, *rest: bytes) -> Fired:
    if word == b"FIRED":
        return Fired(Reply.FIRED, last_ms=int(rest[0]))
    return Fired(reply_of(word), tuple(pushed(each) for each in rest))

"""What is said to the server about schedules; see `commands.py`."""

from typing import Any

from redisjobs.drivers.redis.commands import Command, Commands, Word, due_word, pairs, raw_id, reply_of
from redisjobs.model.job import OnConflict
from redisjobs.model.stored import (
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
    WithdrawSchedules,
)
from redisjobs.model.transitions import NewJob, Pushed, Reply

_REPLY_BYTES = 1024 * 1024  # of schedules in one page, more or less
_CONFLICTS = {OnConflict.SKIP: "", OnConflict.REPLACE: "replace", OnConflict.RAISE: "raise"}


class ScheduleCommands(Commands):
    """The commands of one queue's schedules."""

    def schedules(self, query: ListSchedules) -> Command[SchedulePage]:
        return self._run(
            "schedules", [self._now, raw_id(query.name), _text(query.after), str(_REPLY_BYTES)], _page
        )

    def put_schedule(self, change: PutSchedules) -> Command[PutAnswer]:
        by = change.by
        words: list[Word] = [self._now, *((str(by.began_ms), by.scheduler, by.release) if by else ("", "", ""))]
        for each in change.schedules:
            fields = each.definition.fields if each.definition else []
            words += [raw_id(each.name), each.fingerprint, _text(each.last_ms), _text(each.since_ms)]
            words += [str(len(fields)), *fields]
        return self._run("put_schedule", words, _put_answer)

    def withdraw_schedules(self, change: WithdrawSchedules) -> Command[Reply]:
        words = [self._now, change.by.scheduler, change.by.release]
        return self._run("withdraw_schedules", words, reply_of)

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
    now_us, change, more, served, gone, *rows = reply
    found = [ScheduleRow(_name(name), pairs(flat), bool(there)) for name, there, flat in rows]
    return SchedulePage(
        found, [_name(each) for each in gone], change, int(more) if more else None, bool(served), now_us / 1000
    )


def _name(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _put_answer(reply: Any) -> PutAnswer:
    now_us, change, present, *words = reply
    return PutAnswer([reply_of(word) for word in words], change, present, now_us / 1000)


def _fire_answer(reply: Any) -> FireAnswer:
    now_us, *answers = reply
    return FireAnswer([_fired(*answer) for answer in answers], now_us / 1000)


def _fired(word: bytes, *rest: bytes) -> Fired:
    if word == b"FIRED":
        return Fired(Reply.FIRED, last_ms=int(rest[0]))
    return Fired(reply_of(word), tuple(pushed(each) for each in rest))

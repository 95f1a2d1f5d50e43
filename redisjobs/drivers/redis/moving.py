"""Moves jobs of a queue to and from other stores: the round trips, and how jobs in transit are read and sent."""

from collections.abc import Sequence
from secrets import token_hex

from redisjobs.drivers.redis.calls import FAR
from redisjobs.drivers.redis.commands import Command, Commands, Steps
from redisjobs.drivers.redis.wire import Word, number_word, pairs, pushed, raw_id, reply_of, shown, text_id
from redisjobs.model import moving
from redisjobs.model.changes import Ending, JobStatus
from redisjobs.model.job import Priority, State
from redisjobs.model.moving import Outcome, Taken
from redisjobs.model.queries import Row
from redisjobs.model.retention import Retention, keep_of
from redisjobs.model.transitions import Pushed, Reply

_WIDTH = 20  # digits of each number of an entry id, in a place


def take(commands: Commands, change: moving.Take) -> Steps[moving.Took]:
    """Put jobs in transit."""
    words: list[Word] = [commands.now, token_hex(16)]
    for row in change.rows:
        words += [raw_id(row.job_id), _place_of(row), row.key]
    ((name, *replies),) = yield [commands.run("take", words)]
    return moving.Took(shown(name), [reply_of(reply) for reply in replies])


def _place_of(row: Row) -> str:
    return row.priority if row.state is State.READY else row.state


def find_taken(commands: Commands, query: moving.FindTaken) -> Steps[moving.InTransit]:
    """Read jobs in transit."""
    ((name, total, *rows),) = yield [commands.run("taken", [_entry(query.after), str(query.limit), commands.now])]
    return moving.InTransit(shown(name), [_taken(*row) for row in rows], total)


def _place(entry: str) -> str:
    """Return an entry id as a text that can be compared."""
    return "-".join(number.zfill(_WIDTH) for number in entry.split("-"))


def _entry(place: str) -> str:
    return "-".join(str(int(number)) for number in place.split("-")) if place else ""


def _taken(
    entry: bytes,
    job_id: bytes,
    state: bytes,
    priority: bytes,
    due: bytes,
    held: bytes,
    since: bytes,
    taken_at: bytes,
    fields: Sequence[bytes],
    window: bytes,
    *ending: bytes,
) -> Taken:
    return Taken(
        place=_place(entry.decode()),
        job_id=text_id(job_id),
        state=State(state.decode()),
        priority=Priority(priority.decode()),
        fields=pairs(fields),
        since_ms=int(since),
        taken_ms=int(taken_at),
        due_ms=int(max(-FAR, min(float(due), FAR))) if due else None,
        held=bool(held),
        window_ms=int(window) if window else None,
        outcome=_outcome(*ending),
    )


def _outcome(outcome: bytes, result: bytes, until: bytes, result_until: bytes) -> Outcome | None:
    """Return an outcome as `include/conclude.lua` has written it."""
    if not outcome or not until:
        return None
    word, _, text = shown(outcome).partition(" ")
    status = JobStatus(Ending.CANCELLED if word == "cancelled" else Ending.EXPIRED)
    if word == "completed" and result:
        status = JobStatus(Ending.COMPLETED, value=result)
    elif word == "refused":
        status = JobStatus(Ending.REFUSED, error=text)
    elif word == "dead":
        error_type, _, error = text.partition(" ")
        status = JobStatus(Ending.DEAD, error=error, error_type=error_type)
    return Outcome(status, int(until), int(result_until or 0))


def forget_taken(commands: Commands, change: moving.ForgetTaken) -> Steps[Reply]:
    """Delete jobs from transit."""
    if change.places:
        yield [Command(["XDEL", f"{commands.prefix}taken", *map(_entry, change.places)], int)]
    return Reply.OK


def import_jobs(commands: Commands, change: moving.Import) -> Steps[list[Pushed]]:
    """Add jobs in transit from elsewhere."""
    words: list[Word] = [commands.now, change.source]
    for job in change.jobs:
        words += _words(job)
    (replies,) = yield [commands.run("import", words)]
    return [pushed(reply) for reply in replies]


def _words(job: Taken) -> list[Word]:
    words: list[Word] = [job.place, raw_id(job.job_id), job.state, job.priority, number_word(job.due_ms)]
    words += ["1" if job.held else "", number_word(job.window_ms), *_ending(job.outcome)]
    return [*words, str(2 * len(job.fields)), *(part for pair in job.fields.items() for part in pair)]


def _ending(outcome: Outcome | None) -> list[Word]:
    if outcome is None:
        return ["", "", "", ""]
    status = outcome.status
    texts = {
        Ending.CANCELLED: "cancelled",
        Ending.REFUSED: f"refused {status.error}",
        Ending.DEAD: f"dead {status.error_type} {status.error}",
    }
    text = texts.get(status.ending, "completed").encode("utf-8", "surrogateescape")
    return [text, status.value, str(outcome.until_ms), str(outcome.value_until_ms)]


def find_retention(commands: Commands, query: moving.FindRetention) -> Steps[Retention | None]:
    """Read what the queue keeps."""
    ((completed, cancelled, dead),) = yield [
        Command(["HMGET", f"{commands.prefix}retention", "completed", "cancelled", "dead"])
    ]
    if not dead:
        return None
    done, ended = (keep_of(shown(text)) if text else None for text in (completed, cancelled))
    return Retention(done, ended, keep_of(shown(dead)))

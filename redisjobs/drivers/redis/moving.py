"""Moves jobs of a queue to and from other stores: the round trips, and how jobs in transit are read and sent."""

from collections.abc import Iterator, Mapping, Sequence
from secrets import token_hex
from typing import Any

from redisjobs.drivers.redis.calls import FAR, child_outcomes, steps_of
from redisjobs.drivers.redis.commands import Command, Commands, Steps
from redisjobs.drivers.redis.wire import Word, number_word, pairs, pushed, raw_id, reply_of, shown, text_id
from redisjobs.model import moving
from redisjobs.model.changes import Ending, JobStatus
from redisjobs.model.children import ChildOutcome, ChildState
from redisjobs.model.job import Priority, State
from redisjobs.model.moving import MovedOutcome, Taken
from redisjobs.model.queries import Row
from redisjobs.model.retention import Retention, keep_of
from redisjobs.model.steps import How, Saved
from redisjobs.model.steps import Steps as SavedSteps
from redisjobs.model.transitions import Pushed, Reply

_WIDTH = 20  # digits of each number of an entry id, in a place


def take(commands: Commands, change: moving.Take) -> Steps[moving.Took]:
    """Put jobs in transit."""
    words: list[Word] = [commands.now, token_hex(16), str(change.most_bytes)]
    for row in change.rows:
        words += [raw_id(row.job_id), _place_of(row), row.key]
    ((name, *replies),) = yield [commands.run("take", words)]
    return moving.Took(shown(name), [reply_of(reply) for reply in replies])


def _place_of(row: Row) -> str:
    return row.priority if row.state is State.READY else row.state


def find_taken(commands: Commands, query: moving.FindTaken) -> Steps[moving.InTransit]:
    """Read jobs in transit."""
    ((name, total, *rows),) = yield [commands.run("taken", [_entry(query.after), str(query.limit), commands.now])]
    return moving.InTransit(shown(name), [*map(_taken, rows)], total)


def _place(entry: str) -> str:
    """Return an entry id as a text that can be compared."""
    return "-".join(number.zfill(_WIDTH) for number in entry.split("-"))


def _entry(place: str) -> str:
    return "-".join(str(int(number)) for number in place.split("-")) if place else ""


def _taken(reply: Any) -> Taken:
    found = pairs(reply)
    due, window = found[b"due"], found[b"window"]
    return Taken(
        place=_place(found[b"entry"].decode()),
        job_id=text_id(found[b"id"]),
        state=State(found[b"state"].decode()),
        priority=Priority(found[b"priority"].decode()),
        fields=pairs(found[b"fields"]),
        since_ms=int(found[b"since"]),
        taken_ms=int(found[b"taken"]),
        due_ms=int(max(-FAR, min(float(due), FAR))) if due else None,
        held=bool(found[b"held"]),
        window_ms=int(window) if window else None,
        outcome=_outcome(found),
        steps=steps_of(pairs(found[b"steps"])),
        signals={text_id(name): value for name, value in pairs(found[b"signals"]).items()},
        children=dict(_groups(found[b"children"])),
    )


def _groups(flat: Sequence[bytes]) -> Iterator[tuple[str, list[ChildOutcome]]]:
    """Yield the token of each group of children, and how they have ended."""
    while flat:
        until = 2 + 2 * int(flat[1])
        yield text_id(flat[0]), child_outcomes(flat[2:until])
        flat = flat[until:]


def _outcome(found: Mapping[bytes, Any]) -> MovedOutcome | None:
    """Return an outcome as `include/conclude.lua` has written it."""
    result, until = found[b"result"], found[b"outcome_until"]
    if not found[b"outcome"] or not until:
        return None
    word, _, text = shown(found[b"outcome"]).partition(" ")
    status = JobStatus(Ending.CANCELLED if word == "cancelled" else Ending.EXPIRED)
    if word == "completed" and result:
        status = JobStatus(Ending.COMPLETED, value=result)
    elif word == "refused":
        status = JobStatus(Ending.REFUSED, error=text)
    elif word == "dead":
        error_type, _, error = text.partition(" ")
        status = JobStatus(Ending.DEAD, error=error, error_type=error_type)
    return MovedOutcome(status, int(until), int(found[b"result_until"] or 0))


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
    words += [*_list(job.fields), *_list(_saved(job.steps)), *_list(job.signals)]
    groups = {key: token for key, token in job.steps.groups.items() if token in job.children}
    words.append(str(len(groups)))
    for key, token in groups.items():
        words += [token, *_list(_group(job.job_id, key, job.children[token]))]
    return words


def _list(named: Mapping[bytes, Word] | Mapping[str, Word] | Mapping[str, bytes]) -> list[Word]:
    """Return the number of names and values, and these."""
    flat = [raw_id(part) if isinstance(part, str) else part for pair in named.items() for part in pair]
    return [str(len(flat)), *flat]


def _saved(steps: SavedSteps) -> dict[str, Word]:
    """Return the fields of the key that `steps_of` reads."""
    fields: dict[str, Word] = {key: _saved_text(step) for key, step in steps.saved.items()}
    if steps.version is not None:
        fields["handler version"] = str(steps.version)
    if steps.checkpoint is not None:
        fields["saved checkpoint"] = steps.checkpoint
    if steps.groups:
        fields["child groups"] = " ".join(steps.groups.values())
    return fields | {f"children {key}": token for key, token in steps.groups.items()}


def _saved_text(step: Saved) -> bytes:
    has_value = step.how not in (How.SLEPT, How.TIMEOUT)
    return str(step).encode() + (b" " + step.value if has_value else b"")


def _group(parent: str, key: str, outcomes: Sequence[ChildOutcome]) -> dict[str, Word]:
    """Return the record of a group all of whose children have ended."""
    record: dict[str, Word] = {"parent": parent, "key": key, "total": str(len(outcomes)), "left": "0"}
    record |= {f"id {index}": raw_id(each.job_id) for index, each in enumerate(outcomes) if each.job_id}
    return record | {str(index): _ended(outcome) for index, outcome in enumerate(outcomes)}


def _ended(outcome: ChildOutcome) -> bytes:
    """Return how a child has ended as `child_outcomes` reads it."""
    text = raw_id(outcome.error)
    if outcome.state is ChildState.COMPLETED:
        text = outcome.value
    elif outcome.state is ChildState.DEAD:
        text = raw_id(f"{outcome.error_type} {outcome.reason.replace(' ', '_')} {outcome.error}")
    return b" ".join(filter(None, [outcome.state.encode(), text]))


def _ending(outcome: MovedOutcome | None) -> list[Word]:
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

"""Turns jobs and other values into words of a command, replies into values, and redis-py's errors into ours."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from redis import exceptions as redis_errors

from redisjobs.errors import DriverError, Forbidden, QueueFull, ServerTooOld, Unavailable, WrongType
from redisjobs.model.driver import NoAnswer
from redisjobs.model.job import OnConflict
from redisjobs.model.transitions import After, At, Due, NewJob, Pushed, Reply

Word = str | bytes
"""One word of a command. Never a number: hiredis packs a number by its `repr`, in which Python may run a signal
handler, and hiredis crashes if that handler raises."""

Wire = Sequence[Word]

NEEDED = "redisjobs needs Redis 7.0 or newer, or Valkey 8.0 or newer"

_IN_SCRIPT = re.compile(r" script: ([0-9a-f]{40}, )?on @user_script:\d+\.$")  # the script and line of an error
# Error codes of a server that may answer later. redis-py makes classes of some codes, newer releases of more.
_NOT_NOW = (
    "READONLY MASTERDOWN CLUSTERDOWN TRYAGAIN MOVED ASK NOREPLICAS BUSY UNKILLABLE MISCONF UNBLOCKED".split()
)
_NOT_NOW_CLASSES = (
    redis_errors.ReadOnlyError,
    redis_errors.ClusterDownError,
    redis_errors.TryAgainError,
    redis_errors.AskError,  # MovedError is one, too
    redis_errors.NoScriptError,  # SCRIPT FLUSH again as soon as we had loaded it
)


def translate(error: BaseException) -> DriverError:
    """Return one of redis-py's errors, or the operating system's, as one of ours."""
    if isinstance(error, DriverError):
        return error
    text = _IN_SCRIPT.sub("", str(error)) or type(error).__name__
    if isinstance(error, redis_errors.AuthenticationError):
        return DriverError(f"the server refused the credentials: {text}")
    if isinstance(error, redis_errors.ConnectionError | redis_errors.TimeoutError | OSError | EOFError):
        # BusyLoadingError is a ConnectionError too, which is right: a server that loads its data will answer soon.
        return NoAnswer(text) if isinstance(error, OSError | EOFError) else Unavailable(text)
    if isinstance(error, redis_errors.OutOfMemoryError):
        return QueueFull(f"the server is out of memory, nothing was written: {text}")
    if isinstance(error, _NOT_NOW_CLASSES) or text.partition(" ")[0] in _NOT_NOW:
        return Unavailable(f"{type(error).__name__}: {text}")
    if isinstance(error, redis_errors.NoPermissionError) or text.startswith("ACL failure in script"):
        return Forbidden(f"the server's ACL forbids what this role needs: {text}")
    if text.startswith("WRONGTYPE"):
        return WrongType(text)
    if "unknown command" in text and "HELLO" in text.upper():
        return ServerTooOld(f"the server does not know HELLO, so it is older than 6.0; {NEEDED}")
    return DriverError(f"{type(error).__name__}: {text}")


def is_refusal(error: DriverError) -> bool:
    """Whether the server refuses a request for its content: a script failed, or the request is too large.

    Not if a key of another type or the ACL is the reason; these have errors of their own.
    """
    said = error.__cause__
    text = str(said)
    is_refused = _IN_SCRIPT.search(text) is not None or text.startswith("Protocol error")
    return type(error) is DriverError and isinstance(said, redis_errors.ResponseError) and is_refused


def is_a_sentinel() -> DriverError:
    """Return the error if a sentinel answers where a server was expected."""
    return DriverError(
        "a sentinel answers at this address: write redis+sentinel://HOST:26379/NAME/0, NAME being the master that "
        "it monitors"
    )


# Words


def raw_id(job_id: str) -> bytes:
    """Return an id as bytes. An id from redis-cli may not be UTF-8, and redis-py would refuse to encode it."""
    return job_id.encode("utf-8", "surrogateescape")


def raw_word(word: Word) -> bytes:
    """Return a word as bytes, a text like an id."""
    return raw_id(word) if isinstance(word, str) else word


def number_word(number: int | None) -> str:
    """Return a whole number as scripts take it; '' for None."""
    return "" if number is None else str(number)


def due_word(due: Due | None) -> str:
    """Return when a job may run, as scripts take it: '' now, '+5000' in 5 s, else a time in ms."""
    match due:
        case None:
            return ""
        case After(ms):
            return f"+{ms:.15g}"
        case At(ms):
            return str(ms)


def job_words(job: NewJob) -> list[Word]:
    """Return a job as `push` and `fire` take it."""
    conflict = "" if job.on_conflict is OnConflict.SKIP else str(job.on_conflict)
    words: list[Word] = [raw_id(job.job_id), job.nonce, job.priority, due_word(job.due), job.unique]
    words += [number_word(job.unique_for_ms), number_word(job.expires_in_ms), conflict, str(len(job.fields))]
    return [*words, *job.fields]


# Replies


def text_id(reply: bytes) -> str:
    """Return an id from Redis as text; `raw_id` turns it back into the same bytes."""
    return reply.decode("utf-8", "surrogateescape")


def shown(text: bytes) -> str:
    """Return bytes as text for display."""
    return text.decode("utf-8", "replace")


def reply_of(reply: Any) -> Reply:
    """Return a script's word for one job as a `Reply`."""
    return Reply(reply.decode())


def pushed(reply: bytes) -> Pushed:
    """Return the outcome of the push of one job."""
    word, _, holder = text_id(reply).partition(" ")
    return Pushed(Reply(word), holder)


def as_it_is(reply: Any) -> Any:
    """Return a reply unchanged, for a command whose caller parses it."""
    return reply


def queued_ms_of(entry: str) -> int:
    """Return when an entry was written, in ms, as its id says."""
    return int(entry.partition("-")[0] or 0)


def pairs(flat: Sequence[Any]) -> dict[bytes, Any]:
    """Return the fields of an entry, or the values of an answer, from a flat list of names and values."""
    if len(flat) == 6:  # most jobs: id, name, parameters. A third of the time, and each job passes here
        first, its, second, seconds, third, thirds = flat
        return {first: its, second: seconds, third: thirds}
    values = iter(flat)
    return dict(zip(values, values, strict=True))


def threes(flat: Sequence[Any]) -> Iterable[tuple[Any, Any, Any]]:
    """Return the values of a flat list in groups of three."""
    return zip(flat[::3], flat[1::3], flat[2::3], strict=True)

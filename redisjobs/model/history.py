"""The history of a job: what happened to it that is not usual, one line an event."""

from dataclasses import dataclass
from datetime import datetime

from redisjobs.model.codec import digits, when


@dataclass(frozen=True, slots=True)
class PastEvent:
    """Something not usual that happened to a job.

    Attributes:
        at: When, by the server's clock; None if the record was changed in Redis and has no time.
        what: `failed` (an attempt; another one follows), `died` (it became a dead letter), `ended`, `requeued`,
            `edited` (requeued with new parameters), `independent` (it was requeued after its parent had gone on,
            so it is no child any more), `worker-lost`, `released` (its worker stopped), `interrupted` or
            `cancel-asked`.
        worker: The worker that had the job; '' for none.
        attempt: The attempt that failed; None for other events.
        note: The error of a failure; the parameters before an edit. One line, 1,000 bytes at most.
    """

    at: datetime | None
    what: str
    worker: str = ""
    attempt: int | None = None
    note: str = ""


def past_events(text: str) -> tuple[PastEvent, ...]:
    """Return the events of a job's history, one from each line."""
    return tuple(_past_event(line) for line in text.split("\n") if line)


def _past_event(line: str) -> PastEvent:
    at, what, worker, attempt, note = [*line.split(" ", 4), "", "", "", ""][:5]
    ms = digits(at.encode("utf-8", "replace"))
    number = int(attempt) if attempt.isdecimal() and len(attempt) < 10 else None
    return PastEvent(when(ms) if ms else None, what, "" if worker == "-" else worker, number, note)

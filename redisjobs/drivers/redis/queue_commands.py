"""What a producer and an operator say to the server."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redisjobs.drivers.redis.commands import Command, Commands
from redisjobs.drivers.redis.wire import Word, job_words, pushed, raw_id
from redisjobs.model.job import Priority
from redisjobs.model.transitions import NewJob, Pushed, Reply

_SMALL = 4096  # of parameters in bytes, or in characters, of four bytes at most: `push_one` takes less than 16 KB
_STREAMS = {priority: str(number) for number, priority in enumerate(Priority, 1)}
_ADDED = Pushed(Reply.OK)


@dataclass(slots=True)
class PushAnswer:
    """The answer to a push.

    Attributes:
        server_ms: The server's clock.
        pushed: What became of each job, from the first. If these are fewer than were pushed, the others have to be
            looked at one by one. None: the push was STALE, and wrote nothing.
    """

    server_ms: float
    pushed: list[Pushed] | None


def are_plain(jobs: Sequence[NewJob]) -> bool:
    """Whether jobs that were not pushed before have a name and parameters only, made ids, and one priority."""
    priority = jobs[0].priority
    for job in jobs:
        # In the order of what most often is not so; each job that is pushed goes by here.
        if job.nonce or job.due is not None or job.unique or job.expires_in_ms is not None:
            return False
        if job.priority is not priority or len(job.fields) != 4:
            return False
        if job.fields[0] != "name" or job.fields[2] != "parameters":
            return False
    return True


class QueueCommands(Commands):
    """The commands of one queue's producers and operators."""

    def push(self, jobs: Sequence[NewJob], *, repeated: bool, sent_ms: float | None) -> Command[PushAnswer]:
        """Push jobs that were first sent at the same time.

        `sent_ms` is now by the server's clock, or earlier; None: not known, and the answer is STALE.
        """
        since_ms = jobs[0].sent_ms if repeated and jobs[0].sent_ms is not None else sent_ms
        arguments: list[Word] = [self.now, _time(sent_ms), _time(since_ms) if repeated else ""]
        for job in jobs:
            arguments += job_words(job)
        return self.run("push", arguments, _push_answer)

    def push_plain(self, jobs: Sequence[NewJob], *, sent_ms: float | None) -> Command[PushAnswer]:
        """Push jobs that are plain, as `are_plain` says."""
        sent = _time(sent_ms)
        first = jobs[0]
        if len(jobs) == 1 and len(first.fields[3]) < _SMALL:
            words = [self.now, sent, first.priority, first.job_id, first.fields[1], first.fields[3]]
            return self.run("push_one", words, _one_answer)
        arguments: list[Word] = [self.now, sent, _STREAMS[first.priority]]
        arguments += [raw_id(job.job_id) for job in jobs]
        arguments += [job.fields[1] for job in jobs]
        arguments += [job.fields[3] for job in jobs]

        def parse(reply: Any) -> PushAnswer:
            now_us, word = reply
            if word == b"STALE":
                return PushAnswer(now_us / 1000, None)
            return PushAnswer(now_us / 1000, [_ADDED] * len(jobs) if word == b"OK" else [])

        return self.run("push_plain", arguments, parse)


def _time(ms: float | None) -> str:
    return "" if ms is None else f"{ms:.0f}"


def _push_answer(reply: Any) -> PushAnswer:
    now_us, *words = reply
    return PushAnswer(now_us / 1000, None if words == [b"STALE"] else [*map(pushed, words)])


def _one_answer(reply: Any) -> PushAnswer:
    word = reply[1]
    if word == b"OK":  # by far the most
        return PushAnswer(reply[0] / 1000, [_ADDED])
    return PushAnswer(reply[0] / 1000, None if word == b"STALE" else [])

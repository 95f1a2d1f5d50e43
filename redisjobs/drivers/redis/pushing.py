"""A push as a conversation with the server, the same for the async and the sync driver."""

from collections.abc import Generator, Sequence

from redisjobs.drivers.redis.commands import Command
from redisjobs.drivers.redis.connection import ServerClock
from redisjobs.drivers.redis.queue_commands import PushAnswer, QueueCommands, are_plain
from redisjobs.errors import DriverError, Unavailable
from redisjobs.model.driver import PushedInPart
from redisjobs.model.transitions import NewJob, Pushed

Pushing = Generator[Command[PushAnswer], PushAnswer, list[Pushed]]

_MOST_STALE = 3  # answers; then the server's clock does not run evenly


def pushing(clock: ServerClock, commands: QueueCommands, jobs: Sequence[NewJob], repeated: bool) -> Pushing:
    """Push over one connection, with the time by the server's clock.

    A new connection does not know it, nor one after a silence: the first answer refuses the push, and says it.

    Raises:
        PushedInPart: A command failed after an earlier one had answered some of the jobs.
    """
    if repeated and len({job.sent_ms for job in jobs}) > 1:
        return (yield from _pushing_apart(clock, commands, jobs))
    is_plain, stale, most = not repeated and are_plain(jobs), 0, len(jobs)
    done: list[Pushed] = []
    while stale < _MOST_STALE:
        left = jobs[len(done) : len(done) + most] if done else jobs
        sent_ms = clock.now_ms
        first = [job for job in left if job.sent_ms is None]
        for job in first:
            job.sent_ms = sent_ms
        try:
            if is_plain:
                answer = yield commands.push_plain(left, sent_ms=sent_ms)
            else:
                answer = yield commands.push(left, repeated=repeated, sent_ms=sent_ms)
        except Unavailable:
            raise  # all of it is to be repeated
        except DriverError as error:
            if not done:
                raise
            raise PushedInPart(error, [*done, *[None] * (len(jobs) - len(done))]) from error
        clock.hear(answer.server_ms)
        if answer.pushed is None:
            for job in first:
                job.sent_ms = None
            stale += 1
            continue
        done += answer.pushed
        if len(done) == len(jobs):
            return done
        if not is_plain:  # it met large jobs: do not send all of what it did not come to each time
            most = 8 * len(answer.pushed)
        is_plain = False
    raise Unavailable("the server's clock was set again and again, or answers take too long")


def _pushing_apart(clock: ServerClock, commands: QueueCommands, jobs: Sequence[NewJob]) -> Pushing:
    """Push again what was first sent at several times, each of these by itself."""
    positions: dict[float | None, list[int]] = {}
    for at, job in enumerate(jobs):
        positions.setdefault(job.sent_ms, []).append(at)
    done: dict[int, Pushed] = {}
    for these in positions.values():
        try:
            answers = yield from pushing(clock, commands, [jobs[at] for at in these], True)
        except Unavailable:
            raise
        except DriverError as error:
            cause = error
            if isinstance(error, PushedInPart):
                cause = error.cause
                done.update((at, each) for at, each in zip(these, error.answers, strict=True) if each)
            if not done:
                raise
            raise PushedInPart(cause, [done.get(at) for at in range(len(jobs))]) from error
        done.update(zip(these, answers, strict=True))
    return [done[at] for at in range(len(jobs))]

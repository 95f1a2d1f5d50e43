"""How producers push: the round trips of a push, written once for the async and the sync driver."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

from redisjobs.drivers.redis.commands import Command, Commands, Steps
from redisjobs.drivers.redis.wire import Word, job_words, pushed, raw_id
from redisjobs.drivers.remote.clock import ServerClock
from redisjobs.errors import DriverError, Unavailable
from redisjobs.model.driver import PushedInPart
from redisjobs.model.job import Priority
from redisjobs.model.relaying import Relay, Relayed
from redisjobs.model.transitions import NewJob, Pushed, Reply

_REPLICATED_MS = 1000  # how long replicas may take; less than a call without a byte of the answer
_MOST_STALE = 3  # STALE answers to one push; then the server's clock does not run evenly
_SMALL = 4096  # bytes or characters; a character has up to four bytes, and `push_one` takes less than 16 KB
_STREAMS = {priority: str(number) for number, priority in enumerate(Priority, 1)}
_ADDED = Pushed(Reply.OK)


@dataclass(slots=True)
class PushAnswer:
    """The answer to a push.

    Attributes:
        server_ms: The server's clock.
        pushed: The outcome of each job, from the first on. The rest, if any, has to be sent in another call. None:
            the push was STALE, and wrote nothing.
    """

    server_ms: float
    pushed: list[Pushed] | None


Pushing = Generator[Command[PushAnswer], PushAnswer, list[Pushed]]


def are_plain(jobs: Sequence[NewJob]) -> bool:
    """Whether jobs have only a name and parameters, an id that we made, and the same priority."""
    priority = jobs[0].priority
    for job in jobs:
        # The most likely reasons first: each pushed job runs this code.
        if job.nonce or job.due is not None or job.unique or job.expires_in_ms is not None:
            return False
        if job.priority is not priority or len(job.fields) != 4:
            return False
        if job.fields[0] != "name" or job.fields[2] != "parameters":
            return False
    return True


def replicas_of(jobs: Sequence[NewJob]) -> int:
    """Return how many replicas must have these jobs."""
    most = 0
    for job in jobs:  # no `max`: each push runs this code
        if job.replicas > most:
            most = job.replicas
    return most


class PushCommands(Commands):
    """The commands that push to one queue."""

    def replicated(self, clock: ServerClock, pushing: Pushing, replicas: int) -> Steps[list[Pushed]]:
        """Push, and in the same round trip wait until this many replicas have the jobs.

        Raises:
            Unavailable: Fewer have them. The push has to be repeated; the server has the jobs meanwhile.
            DriverError: The server refuses to say how many have them. It has the jobs.
        """
        confirm = _confirming(self, replicas)
        asked = confirm if clock.now_ms is not None else []  # else the answer is STALE
        try:
            command = next(pushing)
            while True:
                try:
                    answer, *confirmed = yield [command, *asked]
                except DriverError as error:
                    command = pushing.throw(error)
                    continue
                if answer.pushed:
                    _check_replicas(answer.pushed, confirmed, replicas)
                asked = confirm
                command = pushing.send(answer)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]

    def pushing(self, clock: ServerClock, jobs: Sequence[NewJob], repeated: bool) -> Pushing:
        """Push over one connection, and send along what time it is by the server's clock.

        A new connection does not know that time, nor does one after a minute of silence. Then the first answer is
        STALE and has the time, and we push again.

        Raises:
            PushedInPart: A command failed after an earlier one had answered some of the jobs.
        """
        if repeated and len({job.sent_ms for job in jobs}) > 1:
            return (yield from self._pushing_apart(clock, jobs))
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
                    answer = yield self.push_plain(left, sent_ms=sent_ms)
                else:
                    answer = yield self.push(left, repeated=repeated, sent_ms=sent_ms)
            except Unavailable:
                raise  # the caller repeats all of it
            except DriverError as error:
                if not done:
                    raise
                raise PushedInPart(error, [*done, *[None] * (len(jobs) - len(done))]) from error
            clock.record(answer.server_ms)
            if answer.pushed is None:
                for job in first:
                    job.sent_ms = None
                stale += 1
                continue
            done += answer.pushed
            if len(done) == len(jobs):
                return done
            if not is_plain:  # the call stopped at large jobs: don't send the whole rest again each time
                most = 8 * len(answer.pushed)
            is_plain = False
        raise Unavailable("the server's clock was set again and again, or answers take too long")

    def _pushing_apart(self, clock: ServerClock, jobs: Sequence[NewJob]) -> Pushing:
        """Repeat the push of jobs that were first sent at different times: one push for each time."""
        positions: dict[float | None, list[int]] = {}
        for at, job in enumerate(jobs):
            positions.setdefault(job.sent_ms, []).append(at)
        done: dict[int, Pushed] = {}
        for these in positions.values():
            try:
                answers = yield from self.pushing(clock, [jobs[at] for at in these], True)
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

    def push(self, jobs: Sequence[NewJob], *, repeated: bool, sent_ms: float | None) -> Command[PushAnswer]:
        """Push jobs that were first sent at the same time.

        `sent_ms` is the server's time, or a little earlier; None: unknown, and the answer is STALE.
        """
        since_ms = jobs[0].sent_ms if repeated and jobs[0].sent_ms is not None else sent_ms
        arguments: list[Word] = [self.now, _time(sent_ms), _time(since_ms) if repeated else "", ""]
        for job in jobs:
            arguments += job_words(job)
        return self.run("push", arguments, _push_answer)

    def push_plain(self, jobs: Sequence[NewJob], *, sent_ms: float | None) -> Command[PushAnswer]:
        """Push jobs for which `are_plain` is true."""
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


def relay(commands: Commands, change: Relay) -> Steps[Relayed]:
    """Push rows of an outbox, and wait for as many replicas as they want.

    Raises:
        Unavailable: Fewer replicas have them. The relay has to repeat it; the server has the jobs meanwhile.
    """
    words: list[Word] = [commands.now, _time(change.read_ms), "", change.outbox]
    for job in change.jobs:
        words += job_words(job)
    replicas = replicas_of(change.jobs)
    confirm = _confirming(commands, replicas) if replicas else []
    answer, *confirmed = yield [commands.run("push", words, _push_answer), *confirm]
    if confirmed and answer.pushed:
        _check_replicas(answer.pushed, confirmed, replicas)
    return Relayed(answer.server_ms, answer.pushed)


def _confirming(commands: Commands, replicas: int) -> list[Command[Any]]:
    """Return the commands that wait until replicas have what was pushed."""
    # WAIT waits for the last write of its own connection, so a repeated push, which adds nothing, needs one.
    # If only these two are refused, the push is not: the server may be full just by this push.
    stats = f"{commands.prefix}stats"
    write = Command(["HINCRBY", stats, "pushed", "0"], lambda _: True, when_refused=False, looks_back=True)
    return [write, Command(["WAIT", str(replicas), str(_REPLICATED_MS)], int, when_refused=-1, looks_back=True)]


def _check_replicas(pushed: Sequence[Pushed], confirmed: Sequence[int], replicas: int) -> None:
    """Raise an error unless this many replicas have what was pushed; see `PushCommands.replicated`."""
    is_written, found = confirmed
    if found < 0 or not (is_written or all(each.reply is Reply.OK for each in pushed)):  # OK is a write, too
        raise DriverError(
            "the push is done, but the server refused WAIT or HINCRBY, so nothing is known of its replicas: "
            "replicas= needs both, and in an ACL +wait"
        )
    if found < replicas:
        raise Unavailable(f"only {found} of {replicas} replicas have the push")


def _time(ms: float | None) -> str:
    return "" if ms is None else f"{ms:.0f}"


def _push_answer(reply: Any) -> PushAnswer:
    now_us, *words = reply
    return PushAnswer(now_us / 1000, None if words == [b"STALE"] else [*map(pushed, words)])


def _one_answer(reply: Any) -> PushAnswer:
    word = reply[1]
    if word == b"OK":  # first, as by far the most frequent
        return PushAnswer(reply[0] / 1000, [_ADDED])
    return PushAnswer(reply[0] / 1000, None if word == b"STALE" else [])

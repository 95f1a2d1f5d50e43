"""What a worker says to the server, and its heartbeat; see `commands.py`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any
from urllib.parse import unquote

from redisjobs.drivers.redis.commands import (
    GROUP,
    LAYOUT,
    Command,
    Commands,
    Further,
    Word,
    due_word,
    pairs,
    queued_ms_of,
    raw_id,
    reply_of,
    running_of,
    text_id,
)
from redisjobs.drivers.redis.schedule_commands import job_words
from redisjobs.errors import DriverError
from redisjobs.model.driver import Fenced, IdTaken
from redisjobs.model.job import Priority
from redisjobs.model.times import YOUNG_MS
from redisjobs.model.transitions import (
    LOWEST_RANK,
    MOST_JOBS,
    Ack,
    DeadLetter,
    Ended,
    Lease,
    Lingers,
    Reclaimed,
    Release,
    Reply,
    ReportProgress,
    RetryLater,
    Settlement,
    Settlements,
    Silent,
    Turn,
)

_FENCED, _SPOILED = b"FENCED", b"SPOILED"
_RELEASED, _RESTRICTED, _PAUSED, _TURNS, _SEES_TO_TURNS, _RELEASED_RANK = 1, 6, 4, 8, 16, 32


@dataclass(slots=True)
class Ahead:
    """What a claim would find.

    Attributes:
        finds: A sum: 1 if jobs were handed back, 2 if some may not start, 4 if the queue is paused; where
            nothing was asked, 8 if a job in a line may start; 16 if this worker is to look when the next may;
            and 32 times the rank of the first that were handed back.
        unread: How many jobs of each stream were never delivered, or about as many.
        turn_in_us: µs until the next in line may start; -1: none waits for a time.
        readable: How many jobs of each stream one read may bring, as there are large ones; 0: any number.
    """

    finds: int
    unread: list[int]
    turn_in_us: int
    readable: Sequence[int] = (0, 0, 0)

    def __bool__(self) -> bool:
        return self.released or any(self.unread)

    @property
    def released(self) -> bool:
        """Whether any job was handed back; such are claimed first."""
        return bool(self.finds & _RELEASED)

    @property
    def restricted(self) -> bool:
        """Whether some jobs may not start, or none."""
        return bool(self.finds & _RESTRICTED)

    @property
    def paused(self) -> bool:
        """Whether the queue is."""
        return bool(self.finds & _PAUSED)

    @property
    def turns(self) -> bool:
        """Whether somebody in line may start, and no claim was asked for."""
        return bool(self.finds & _TURNS)

    @property
    def sees_to_turns(self) -> bool:
        """Whether it is this worker's to look when the next in line may start."""
        return bool(self.finds & _SEES_TO_TURNS)

    @property
    def stream(self) -> int | None:
        """The stream of the highest priority that has jobs which were never delivered."""
        return next((number for number, unread in enumerate(self.unread, 1) if unread > 0), None)

    @property
    def released_rank(self) -> int:
        """The rank of the first job that was handed back; that of the lowest priority where none was."""
        return self.finds // _RELEASED_RANK if self.released else LOWEST_RANK

    @property
    def unread_rank(self) -> int:
        """The rank of the first job that was never delivered; that of the lowest priority where there is none."""
        return LOWEST_RANK if self.stream is None else self.stream - 1

    def note_read(self, leases: Sequence[Lease], streams: slice, most: int) -> None:
        """Take in what a read of some streams has brought, which may have been up to `most` of each."""
        ranks = [lease.rank for lease in leases]
        for number in range(streams.start, streams.stop):
            count = ranks.count(number)
            self.unread[number] = max(0, self.unread[number] - count) if count == most else 0


@dataclass(slots=True)
class Settled:
    """The answer to a batch of settlements.

    Attributes:
        replies: One for each.
        added: By position, for each job that those with pushes push whether it was added.
        spoiled: By position, of those that were SPOILED what is wrong.
        looked: By position, of those that were PARTIAL, for each job that was looked at whether it may be added.
        now_us: The server's clock.
        due_in_us: µs until the next delayed job; -1: there is none, or nothing was asked.
        ahead: What a claim would find.
    """

    replies: Sequence[Reply]
    now_us: int
    due_in_us: int
    ahead: Ahead
    added: Mapping[int, Sequence[bool]] = field(default_factory=dict)
    spoiled: Mapping[int, str] = field(default_factory=dict)
    looked: Mapping[int, Sequence[bool]] = field(default_factory=dict)


@dataclass(slots=True)
class Claimed:
    """The answer to a claim.

    Attributes:
        now_us: The server's clock.
        due_in_us: µs until the next delayed job; -1: there is none.
        ahead: What another claim would find.
        waits_ms: For how long a job has been waiting for a worker with nothing else to run; -1: there is none.
        leases: The jobs claimed.
        ended: Those that were ended instead.
    """

    now_us: int
    due_in_us: int
    ahead: Ahead
    waits_ms: int
    leases: list[Lease]
    ended: list[Ended]


class WorkerCommands(Commands):
    """The commands of one queue's workers."""

    def join(self, worker: str, lease_ms: int, run: str) -> Command[None]:
        """Let a worker begin; `run` tells it from another one of its id."""

        def parse(reply: Any) -> None:
            match reply:
                case b"OK":
                    return
                case b"EXISTS":
                    raise IdTaken(worker)
            raise self.other_version(reply)

        return self._run("join", [worker, str(lease_ms), run, str(LAYOUT), self._now], parse)

    def beat(self, worker: str, facts: Mapping[str, str]) -> Command[int | None]:
        """Parses to how often somebody has asked to cancel a job of the worker; None: it was fenced."""
        flat = [text for fact in facts.items() for text in fact]
        arguments = [worker, self._now, *flat]
        return self._run("beat", arguments, lambda reply: None if reply == _FENCED else int(reply))

    def cancelled(self, leases: Sequence[Lease]) -> Command[list[Lease]]:
        """Which of these jobs somebody has asked to cancel."""

        def parse(reply: Any) -> list[Lease]:
            return [
                lease
                for lease, located in zip(leases, reply, strict=True)
                if located == f"{self._place(lease)} cancelling".encode()
            ]

        return Command(["HMGET", f"{self.prefix}jobs", *(raw_id(lease.job_id) for lease in leases)], parse)

    def _place(self, lease: Lease) -> str:
        stream, entry = lease.token
        return f"{list(Priority)[stream - 1]} {entry}"

    def settle(
        self,
        worker: str,
        turn: Turn | None,
        settlements: Settlements,
        *,
        promote: bool,
        server_ms: float | None,
    ) -> Command[Settled]:
        """Settle at most 500 jobs.

        Args:
            worker: Who settles them.
            turn: By what this is known when it is sent again; None: it never is.
            settlements: The jobs, and what they came to.
            promote: Whether to promote what is due, and hear what a claim would find.
            server_ms: The server's clock, or earlier; None: not known.
        """
        # The same cut as the script would make, by text: entry ids begin with their time, of as many digits.
        batch = _Batch(settlements, cut="" if server_ms is None else f"{server_ms - YOUNG_MS:.0f}")
        lane, number = (turn.lane, turn.number) if turn and settlements else (0, 0)
        arguments = [worker, str(lane), str(number), "1" if promote else "", self._now, *batch.arguments()]

        def parse(reply: Any) -> Settled:
            now_us, due_in, finds, unread, turn_in, *said = _unless_fenced(reply, worker)
            return Settled(batch.replies(said), now_us, due_in, Ahead(finds, unread[:3], turn_in, unread[3:]))

        return self._run("settle", arguments, parse)

    def settle_with_pushes(
        self, worker: str, turn: Turn | None, call: str, settlements: Settlements
    ) -> Command[Settled]:
        """Settle jobs that push others; where the server is out of memory they are all FULL.

        `call` tells it from other calls of the same turn.
        """
        others = [word for lease, one in settlements for word in _words(lease, one)]
        lane, number = (f"{turn.lane}+{call}", str(turn.number)) if turn else ("0", "0")
        arguments = [worker, lane, number, "", self._now, *"000000", *others]

        def parse(reply: Any) -> Settled:
            now_us, _, finds, unread, turn_in, *said = _unless_fenced(reply, worker)
            words = [raw.partition(b":") for raw in said]
            added, looked = _bits(words, b"OK"), _bits(words, b"PARTIAL")
            spoiled = {
                at: unquote(why, errors="replace") for at, (word, _, why) in enumerate(words) if word == _SPOILED
            }
            replies = [reply_of(word) for word, _, _ in words]
            ahead = Ahead(finds, unread[:3], turn_in, unread[3:])
            return Settled(replies, now_us, -1, ahead, added, spoiled, looked)

        full = Settled([Reply.FULL] * len(settlements), 0, -1, Ahead(0, [0, 0, 0], -1))
        return self._run("settle", arguments, parse, when_full=full)

    def claim(
        self, worker: str, count: int, most_bytes: int, max_deliveries: int, *, idle: bool
    ) -> Command[Claimed]:
        def parse(reply: Any) -> Claimed:
            now_us, due_in, finds, unread, turn_in, waits, jobs, ended = _unless_fenced(reply, worker)
            leases = [_lease(*job) for job in jobs]
            return Claimed(
                now_us, due_in, Ahead(finds, unread[:3], turn_in, unread[3:]), waits, leases, _ended(ended)
            )

        limits = map(str, (min(count, MOST_JOBS), most_bytes, max_deliveries))
        arguments = [worker, *limits, "1" if idle else "", self._now]
        return self._run("claim", arguments, parse)

    def read(self, worker: str, streams: slice, count: int) -> Command[list[Lease]]:
        """Claim from some streams what was never delivered, up to `count` of each."""
        keys = self.streams[streams]
        wire = ["XREADGROUP", "GROUP", GROUP, worker, "COUNT", str(count), "STREAMS", *keys, *">" * len(keys)]
        return Command(wire, self._read, worker=worker)

    def wait(self, worker: str, count: int, timeout_ms: int) -> Command[tuple[list[Lease], bool]]:
        """Wait for jobs; parses to those that came, and whether something is in the inbox."""
        inbox = f"{self.prefix}inbox"
        wire = ["XREADGROUP", "GROUP", GROUP, worker, "COUNT", str(count), "BLOCK", str(timeout_ms), "STREAMS"]

        def parse(reply: Any) -> tuple[list[Lease], bool]:
            read = [found for found in reply or () if found[0] != inbox.encode()]
            return self._read(read), len(read) < len(reply or ())

        return Command([*wire, *self.streams, inbox, *">>>>"], parse, worker=worker)

    def is_restricted(self) -> Command[bool]:
        """Whether some jobs may not start: what was just read has to be screened."""
        return Command(["EXISTS", *self._restrictions], bool, looks_back=True)

    def is_restricted_or_lost(self, worker: str) -> Command[bool]:
        """The same, or whether the server has lost the worker's record: then it has to be screened as well."""
        # EXISTS counts a key as often as it is named: with the record alone there it says 1.
        keys = (f"{self.prefix}worker:{worker}", *self._restrictions, *self._restrictions)
        return Command(["EXISTS", *keys], lambda count: int(count) != 1, looks_back=True)

    @cached_property
    def _restrictions(self) -> list[str]:
        return [f"{self.prefix}{key}" for key in ("paused", "paused:names", "held", "limits")]

    def screen(self, worker: str, leases: Sequence[Lease]) -> Command[list[Lease]]:
        """Keep those of at most 500 jobs that may start, and hand the others on."""

        def parse(reply: Any) -> list[Lease]:
            answers = _unless_fenced(reply, worker)
            return [lease for lease, starts in zip(leases, answers, strict=True) if starts]

        return self._run(
            "screen", [worker, self._now, *(word for lease in leases for word in _token(lease))], parse
        )

    def _read(self, reply: Any) -> list[Lease]:
        leases = []
        for stream, entries in reply or ():
            number = self.streams.index(stream.decode()) + 1
            for entry, fields in entries:
                leases.append(_lease(number, entry, 1, fields or []))
        return leases

    def reject(self, leases: Sequence[Lease]) -> Command[list[str]]:
        """Make dead letters of entries without an id; parses to the ids of these."""
        arguments = [self._now, *(word for lease in leases for word in _token(lease))]
        return self._run("reject", arguments, lambda reply: [job_id.decode() for job_id in reply if job_id])

    def pending(self, worker: str, stream: int, idle_ms: int, start: str) -> Command[list[str]]:
        """The entries that a worker has been holding for so long: up to 500 of a stream, from there on."""
        wire = [
            "XPENDING",
            self.streams[stream - 1],
            GROUP,
            "IDLE",
            str(idle_ms),
            start,
            "+",
            str(MOST_JOBS),
            worker,
        ]
        return Command(wire, lambda rows: [row[0].decode() for row in rows], worker=worker)

    def recover(
        self, worker: str, most_bytes: int, idle_ms: int, places: Sequence[str]
    ) -> Command[tuple[int, list[Lease]]]:
        """At how many of these places it looked, as `1 1732-0`; and which of them the worker holds."""

        def parse(reply: Any) -> tuple[int, list[Lease]]:
            looked, jobs = _unless_fenced(reply, worker)
            return looked, [_lease(*job) for job in jobs]

        return self._run("recover", [worker, str(most_bytes), str(idle_ms), self._now, *places], parse)

    def reclaim(
        self, worker: str, count: int, silent: Sequence[Silent], *, others: bool, thorough: bool
    ) -> Command[Reclaimed]:
        def parse(reply: Any) -> Any:
            now_us, named, fenced, jobs, more, released, held, known, *facts, very_many = _unless_fenced(
                reply, worker
            )
            reclaimed = Reclaimed(
                [Silent(text_id(worker_id), end.decode(), lease_ms / 1000) for worker_id, end, lease_ms in named],
                [text_id(worker_id) for worker_id in fenced],
                jobs,
                bool(more),
                bool(released),
                held,
                now_us / 1000,
                known,
                *map(bool, facts),  # promotes, late, untidy
            )

            def join(listed: list[dict[bytes, int]]) -> Reclaimed:
                also = sum(running_of(consumers, raw_id(worker)) for consumers in listed)
                return replace(reclaimed, others=held + also)

            commands = [self.consumers_of(number - 1) for number in very_many]
            return Further(commands, join) if commands else reclaimed

        flat = [word for each in silent for word in (raw_id(each.worker_id), each.until_ms)]
        return self._run(
            "reclaim",
            [worker, str(count), "1" if others else "", "1" if thorough else "", self._now, *flat],
            parse,
        )

    def release(self, worker: str, *, refund: bool, watch: bool) -> Command[int]:
        return self._run("release", [worker, "1" if refund else "0", "1" if watch else "", self._now], int)


def _bits(words: Sequence[tuple[bytes, bytes, bytes]], wanted: bytes) -> dict[int, list[bool]]:
    """By position, what follows a word: 1 or 0 for each job that is pushed."""
    return {at: [bit == 49 for bit in bits] for at, (word, _, bits) in enumerate(words) if word == wanted}


class _Batch:
    """Settlements as `settle.lua` takes them: what is done at its first delivery, by stream, then the others.

    Args:
        settlements: The jobs, and what they came to.
        cut: What became ready after it is young: its push may be repeated yet.
    """

    __slots__ = (
        *("_cut", "_done", "_entries", "_has_nonces", "_ids", "_others", "_rest", "_results", "_uniques"),
        "_young",
    )

    def __init__(self, settlements: Settlements, cut: str) -> None:
        self._cut = cut
        self._done: list[list[int]] = [[], [], []]  # positions
        self._entries: list[list[str]] = [[], [], []]
        self._ids: list[list[bytes]] = [[], [], []]
        self._young: list[bytes] = []
        self._has_nonces = False
        self._uniques: list[bytes] = []
        self._results: list[Word] = []
        self._rest: list[int] = []  # positions
        self._others: list[Word] = []
        for position, (lease, settlement) in enumerate(settlements):
            if type(settlement) is Ack and not settlement.cancelled and lease.deliveries == 1:
                self._add_done(position, lease, settlement)
            else:
                self._add_other(position, lease, settlement)

    def _add_done(self, position: int, lease: Lease, done: Ack) -> None:
        stream, entry = lease.token
        job_id, number = raw_id(lease.job_id), stream - 1
        self._done[number].append(position)
        self._entries[number].append(entry)
        self._ids[number].append(job_id)
        nonce, unique = lease.nonce, lease.unique
        if entry > self._cut:
            self._young.append(b"%b %b" % (nonce, job_id) if nonce else job_id)
        if nonce:
            self._has_nonces = True
        if unique:
            self._uniques += (unique, job_id)
        if done.result is not None or done.reported:
            self._results += (str(stream), str(len(self._ids[number])), *_result(done))

    def _add_other(self, position: int, lease: Lease, settlement: Settlement) -> None:
        self._rest.append(position)
        self._others += _words(lease, settlement)

    def arguments(self) -> list[Word]:
        """What goes to the script: how many there are of each kind, then all of them."""
        plain = len(self._young) == sum(map(len, self._ids)) and not self._has_nonces
        young = "ids" if plain else str(len(self._young))
        arguments: list[Word] = [*(str(len(entries)) for entries in self._entries), young]
        arguments += [str(len(self._uniques) // 2), str(len(self._results) // 5)]
        for entries, ids in zip(self._entries, self._ids, strict=True):
            arguments += entries
            arguments += ids
        return [*arguments, *(() if plain else self._young), *self._uniques, *self._results, *self._others]

    def replies(self, said: Sequence[bytes]) -> list[Reply]:
        """One for each settlement, in their order."""
        order = [*self._done[0], *self._done[1], *self._done[2], *self._rest]
        replies = [Reply.OK] * len(order)
        if said != [b"OK"]:
            for position, raw in zip(order, said, strict=True):
                replies[position] = reply_of(raw)
        return replies


def _words(lease: Lease, settlement: Settlement) -> list[Word]:
    """A settlement that is no plain success, as settle takes it."""
    verb, values = _settlement(lease, settlement)
    return [verb, *_token(lease), str(lease.deliveries), raw_id(lease.job_id), str(len(values)), *values]


def _token(lease: Lease) -> tuple[str, str]:
    """Where a lease's entry is, as scripts take it."""
    stream, entry = lease.token
    return str(stream), entry


def _settlement(lease: Lease, settlement: Settlement) -> tuple[str, list[Word]]:
    """What settle calls it, and the values that it takes with it."""
    match settlement:
        case Ack(cancelled, _, pushes):
            told = [lease.unique, lease.nonce, *_result(settlement)]
            told[2] = told[2] or lease.fields.get(b"keep_result", b"")  # so that nobody has to read the entry
            if pushes:
                return "pushes", [*told, str(len(pushes)), *(word for job in pushes for word in job_words(job))]
            verb = "cancelled" if cancelled else "done"
            return verb, told
        case RetryLater(due, changes):
            return "retry", [due_word(due), *(text for change in changes.items() for text in change)]
        case Release(refund):
            return "release", ["1" if refund else "0"]
        case DeadLetter(reason, error, traceback, error_type, fingerprint, reported):
            return "fail", [reason, error, traceback, error_type, fingerprint, "1" if reported else ""]
        case ReportProgress(progress):
            return "report", [progress]
        case Lingers():
            return "lingers", []


def _result(done: Ack) -> tuple[str, str, Word]:
    """What is kept of a job that has run, as settle takes it."""
    result = done.result
    if result is None:
        return "", "reported" if done.reported else "", ""
    if result.refused:
        return str(result.keep_ms), "refused", result.refused
    return str(result.keep_ms), *(("", "") if result.value is None else ("completed", result.value))


def _unless_fenced(reply: Any, worker: str) -> Any:
    """A reply of a worker's verb.

    Raises:
        Fenced: It says that the worker is no longer one.
        DriverError: It says that what was sent is out of date.
    """
    if reply == _FENCED:
        raise Fenced(worker)
    if reply == b"STALE":
        raise DriverError("these settlements came after later ones of this worker; nothing was written")
    return reply


def _lease(stream: int, entry: bytes, deliveries: int, flat: Sequence[bytes]) -> Lease:
    fields = pairs(flat)
    place = entry.decode()
    job_id = fields.get(b"id", b"").decode("utf-8", "surrogateescape")
    queued_ms = queued_ms_of(place)
    return Lease(f"{stream} {place}", (stream, place), deliveries, job_id, fields, queued_ms, stream - 1)


def _ended(reply: Any) -> list[Ended]:
    return [(text_id(job_id), reply_of(raw)) for job_id, raw in reply]

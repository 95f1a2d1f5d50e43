"""The commands that a worker and its heartbeat send."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from redisjobs.drivers.redis.commands import GROUP, LAYOUT, READS, Command, Commands, Steps, run_id, running_of
from redisjobs.drivers.redis.outlook import REPLY_BYTES, Prospect
from redisjobs.drivers.redis.settlements import Columns, settlement_words, token_words
from redisjobs.drivers.redis.wire import pairs, queued_ms_of, raw_id, reply_of, text_id
from redisjobs.errors import DriverError
from redisjobs.model.changes import Wish
from redisjobs.model.driver import Fenced, IdTaken
from redisjobs.model.job import Priority
from redisjobs.model.times import YOUNG_MS
from redisjobs.model.transitions import (
    MOST_JOBS,
    Ended,
    Lease,
    Reclaimed,
    Reply,
    Settlements,
    Silent,
    Turn,
)

_FENCED, _STALE = b"FENCED", b"STALE"
_WISHES = {wish.value.encode(): wish for wish in Wish}  # a record changed in Redis may have another text: no wish


@dataclass(slots=True)
class Settled:
    """The answer to a batch of settlements.

    Attributes:
        ahead: What a claim would find.
        replies: One for each settlement.
        texts: For settlements that push jobs, the text behind each reply. OK: for each pushed job `1` if it was
            added, else `0`. PARTIAL: the same for the jobs checked so far, `1` if it may be added. SPOILED: why.
    """

    ahead: Prospect
    replies: Sequence[Reply]
    texts: Sequence[bytes] = ()


@dataclass(slots=True)
class Claimed:
    """The answer to a claim.

    `waits_ms` is how long a job has waited for a worker that runs nothing else; -1: there is no such job.
    """

    ahead: Prospect
    waits_ms: int
    leases: list[Lease]
    ended: list[Ended]  # jobs that the claim ended instead of delivering them


class WorkerCommands(Commands):
    """The commands of one queue's workers."""

    def join(self, worker: str, lease_ms: int, run: str) -> Command[None]:
        """Register a worker; `run` tells it from another worker with its id."""

        def parse(reply: Any) -> None:
            match reply:
                case b"OK":
                    return
                case b"EXISTS":
                    raise IdTaken(worker)
            raise self.other_version(reply)

        return self.run("join", [worker, str(lease_ms), run, str(LAYOUT), str(READS), self.now], parse)

    def beat(self, worker: str, facts: Mapping[str, str]) -> Command[tuple[int, Wish | None] | None]:
        """Renew a worker's lease; parses to what was asked of it, or None: it was fenced.

        That is how often a cancel of one of its jobs was asked for, and what an operator wishes it to do.
        """

        def parse(reply: Any) -> tuple[int, Wish | None] | None:
            if reply == _FENCED:
                return None
            cancels, wish = reply
            return cancels, _WISHES.get(wish)

        return self.run("beat", [worker, self.now, *(text for fact in facts.items() for text in fact)], parse)

    def cancelled(self, leases: Sequence[Lease]) -> Command[list[Lease]]:
        """Find which of these jobs are to be cancelled."""

        def parse(reply: Any) -> list[Lease]:
            return [
                lease
                for lease, located in zip(leases, reply, strict=True)
                if located == f"{list(Priority)[lease.token[0] - 1]} {lease.token[1]} cancelling".encode()
            ]

        return Command(["HMGET", f"{self.prefix}jobs", *(raw_id(lease.job_id) for lease in leases)], parse)

    def settle(
        self, worker: str, turn: Turn | None, settlements: Settlements, *, promote: bool, server_ms: float | None
    ) -> Command[Settled | Fenced]:
        """Settle at most 500 jobs that a full server can settle.

        With `promote`, also promote due jobs, and ask what a claim would find. `server_ms` is the server's time,
        or a little earlier; None: unknown.
        """
        # The script cuts at the same time. Entry ids compare as text, because they begin with equally long times.
        columns = Columns(settlements, cut="" if server_ms is None else f"{server_ms - YOUNG_MS:.0f}")
        lane, number = (turn.lane, turn.number) if turn and settlements else (0, 0)
        arguments = [worker, str(lane), str(number), "1" if promote else "", self.now, *columns.arguments()]

        def parse(reply: Any) -> Settled | Fenced:
            if reply == _FENCED:
                return Fenced(worker)
            now_us, due_in, finds, counts, turn_in, *words = _unless_stale(reply)
            return Settled(Prospect(now_us, due_in, finds, counts, turn_in), columns.replies(words))

        return self.run("settle", arguments, parse)

    def settle_with_pushes(
        self, worker: str, turn: Turn | None, call: str, settlements: Settlements
    ) -> Command[Settled | Fenced]:
        """Settle jobs that push others, or run on and write; if the server has no memory, each reply is FULL.

        `call` tells this call from the others of the same turn.
        """
        others = [word for lease, one in settlements for word in settlement_words(lease, one)]
        lane, number = (f"{turn.lane}+{call}", str(turn.number)) if turn else ("0", "0")
        arguments = [worker, lane, number, "", self.now, *"000000", *others]

        def parse(reply: Any) -> Settled | Fenced:
            if reply == _FENCED:
                return Fenced(worker)
            now_us, _, finds, counts, turn_in, *answers = _unless_stale(reply)
            words = [raw.partition(b":") for raw in answers]
            replies = [reply_of(word) for word, _, _ in words]
            return Settled(Prospect(now_us, -1, finds, counts, turn_in), replies, [text for _, _, text in words])

        full = Settled(Prospect(0, -1, 0, [0] * 6, -1), [Reply.FULL] * len(settlements))
        return self.run("settle", arguments, parse, when_full=full)

    def claim(self, worker: str, count: int, max_deliveries: int, *, idle: bool) -> Command[Claimed | Fenced]:
        def parse(reply: Any) -> Claimed | Fenced:
            if reply == _FENCED:
                return Fenced(worker)
            *ahead, waits, jobs, ended = reply
            endings = [(text_id(job_id), reply_of(raw)) for job_id, raw in ended]
            return Claimed(Prospect(*ahead), waits, [_lease(*job) for job in jobs], endings)

        limits = map(str, (min(count, MOST_JOBS), REPLY_BYTES, max_deliveries))
        return self.run("claim", [worker, *limits, "1" if idle else "", self.now], parse)

    def read(self, worker: str, streams: slice, count: int) -> Command[list[Lease]]:
        """Claim jobs of some streams that were never delivered, up to `count` of each stream."""
        keys = self.streams[streams]
        wire = ["XREADGROUP", "GROUP", GROUP, worker, "COUNT", str(count), "STREAMS", *keys, *">" * len(keys)]
        return Command(wire, self._read, worker=worker)

    def wait(self, worker: str, count: int, timeout_ms: int) -> Command[tuple[list[Lease], bool]]:
        """Wait for jobs; parses to the jobs that came, and whether there are entries in the inbox."""
        inbox = f"{self.prefix}inbox"
        wire = ["XREADGROUP", "GROUP", GROUP, worker, "COUNT", str(count), "BLOCK", str(timeout_ms), "STREAMS"]

        def parse(reply: Any) -> tuple[list[Lease], bool]:
            read = [found for found in reply or () if found[0] != inbox.encode()]
            return self._read(read), len(read) < len(reply or ())

        return Command([*wire, *self.streams, inbox, *">>>>"], parse, worker=worker)

    def _read(self, reply: Any) -> list[Lease]:
        leases = []
        for stream, entries in reply or ():
            number = self.streams.index(stream.decode()) + 1
            for entry, fields in entries:
                leases.append(_lease(number, entry, 1, fields or []))
        return leases

    def is_restricted(self) -> Command[bool]:
        """Ask whether some jobs may not start; if so, the jobs just read have to be screened."""
        return Command(["EXISTS", *self._restrictions], bool, looks_back=True)

    def is_restricted_or_lost(self, worker: str) -> Command[bool]:
        """Ask the same, or whether the server has lost the worker's record: then `screen` raises Fenced."""
        # EXISTS counts a key once for each time it is named: 1 is the record, named once, and no other key.
        keys = (f"{self.prefix}worker:{worker}", *self._restrictions, *self._restrictions)
        return Command(["EXISTS", *keys], lambda count: int(count) != 1, looks_back=True)

    @cached_property
    def _restrictions(self) -> list[str]:
        return [f"{self.prefix}{key}" for key in ("paused", "paused:names", "held", "limits")]

    def screen(self, worker: str, leases: Sequence[Lease]) -> Command[tuple[list[Lease], list[Ended]]]:
        """Park, line up or end those of at most 500 jobs that may not start.

        Parses to the others, and to those that were cancelled.
        """

        def parse(reply: Any) -> tuple[list[Lease], list[Ended]]:
            answers = list(zip(leases, _unless_fenced(reply, worker), strict=True))
            cancelled = [(lease.job_id, Reply.CANCELLED) for lease, answer in answers if answer == 2]
            return [lease for lease, answer in answers if answer == 1], cancelled

        tokens = [word for lease in leases for word in token_words(lease)]
        return self.run("screen", [worker, self.now, *tokens], parse)

    def reject(self, leases: Sequence[Lease]) -> Command[list[str]]:
        """Make dead letters of entries without an id; parses to the ids of the dead letters."""
        tokens = [word for lease in leases for word in token_words(lease)]
        return self.run(
            "reject", [self.now, *tokens], lambda reply: [text_id(job_id) for job_id in reply if job_id]
        )

    def pending(self, worker: str, stream: int, idle_ms: int, start: str) -> Command[list[str]]:
        """List entries that a worker has held for `idle_ms`: up to 500 of a stream, from `start` on."""
        limits = ["IDLE", str(idle_ms), start, "+", str(MOST_JOBS)]
        wire = ["XPENDING", self.streams[stream - 1], GROUP, *limits, worker]
        return Command(wire, lambda rows: [row[0].decode() for row in rows], worker=worker)

    def recover(self, worker: str, idle_ms: int, places: Sequence[str]) -> Command[tuple[int, list[Lease]]]:
        """Look at some of these places, as `1 1732-0`; parses to how many, and the jobs that the worker holds."""

        def parse(reply: Any) -> tuple[int, list[Lease]]:
            looked, jobs = _unless_fenced(reply, worker)
            return looked, [_lease(*job) for job in jobs]

        return self.run("recover", [worker, str(REPLY_BYTES), str(idle_ms), self.now, *places], parse)

    def reclaim(
        self, worker: str, silent: Sequence[Silent], *, others: bool, thorough: bool, names_server: bool
    ) -> Steps[Reclaimed]:
        flat = [word for each in silent for word in (raw_id(each.worker_id), each.until_ms)]
        flags = ["1" if others else "", "1" if thorough else ""]
        # In one round trip: another server may take over after any.
        reply, *server = yield [
            self.run("reclaim", [worker, str(MOST_JOBS), *flags, self.now, *flat]),
            *([run_id()] if names_server else []),
        ]
        now_us, named, fenced, jobs, more, released, held, alive, *facts, very_many = _unless_fenced(reply, worker)
        alone, promotes, late, untidy = map(bool, facts)
        reclaimed = Reclaimed(
            [Silent(text_id(worker_id), end.decode(), lease_ms / 1000) for worker_id, end, lease_ms in named],
            [text_id(worker_id) for worker_id in fenced],
            jobs,
            bool(more),
            bool(released),
            held,
            now_us / 1000,
            alive,
            alone,
            promotes,
            late,
            untidy,
            *server,
        )
        if not very_many:
            return reclaimed
        listed = yield [self.consumers_of(number - 1) for number in very_many]
        also = sum(running_of(consumers, raw_id(worker)) for consumers in listed)
        return replace(reclaimed, others=held + also)

    def release(self, worker: str, *, refund: bool, watch: bool) -> Command[int]:
        return self.run("release", [worker, "1" if refund else "0", "1" if watch else "", self.now], int)


def _unless_fenced(reply: Any, worker: str) -> Any:
    if reply == _FENCED:
        raise Fenced(worker)
    return reply


def _unless_stale(reply: Any) -> Any:
    if reply == _STALE:
        raise DriverError("these settlements came after later ones of this worker; nothing was written")
    return reply


def _lease(stream: int, entry: bytes, deliveries: int, flat: Sequence[bytes]) -> Lease:
    fields = pairs(flat)
    place = entry.decode()
    job_id = fields.get(b"id", b"").decode("utf-8", "surrogateescape")
    queued_ms = queued_ms_of(place)
    return Lease(f"{stream} {place}", (stream, place), deliveries, job_id, fields, queued_ms, stream - 1)

"""Splits the settlements of one exchange into calls, and puts their answers together."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from typing import Any
from urllib.parse import unquote

from redisjobs.drivers.redis.commands import Command
from redisjobs.drivers.redis.outlook import REPLY_BYTES
from redisjobs.drivers.redis.worker_commands import Settled, WorkerCommands
from redisjobs.errors import DriverError
from redisjobs.model.driver import Fenced
from redisjobs.model.emissions import EmitChunks
from redisjobs.model.transitions import (
    ACK,
    MOST_JOBS,
    Ack,
    AddChildren,
    Exchange,
    NewJob,
    Reply,
    ReportProgress,
    SaveStep,
    Settlement,
    Settlements,
    Suspend,
    Turn,
    size_of,
)

Run = Callable[[Command[Any]], Awaitable[list[Any]]]

_YES = ord("1")
_SPARE_STEPS = 10  # further calls for one job that pushes others, beyond two for each job that it pushes


class Settling:
    """The settlements of one exchange. Those that push jobs or write for a running job go first, in other calls.

    So a server that is out of memory refuses only these: the others drain it. Each such call writes a limited
    number of jobs and bytes. All settlements of one job are in calls of one script, so that they arrive in order:
    a server that has lost one of two scripts would end the job, and refuse what the job wrote before its end.
    """

    def __init__(self, commands: WorkerCommands, worker: str, turn: Turn | None, settlements: Settlements) -> None:
        self._commands = commands
        self._worker = worker
        self._turn = turn
        self._all = settlements
        self._plain = settlements
        self._positions: list[list[int]] = []  # of the settlements in each call; empty: all go in one call
        for _, one in settlements:  # any() takes twice as long, and each settled job passes here
            if one is not ACK and _grows(one):
                self._part()
                break

    def _part(self) -> None:
        plain: list[int] = []
        jobs = size = 0
        growing = {lease.key for lease, settlement in self._all if _grows(settlement)}
        for position, (lease, settlement) in enumerate(self._all):
            if lease.key not in growing:
                plain.append(position)
                continue
            pushes = _pushes(settlement)
            if not self._positions or jobs + len(pushes) > MOST_JOBS or size > REPLY_BYTES:
                self._positions.append([])
                jobs = size = 0
            jobs += len(pushes)
            size += size_of(settlement)
            self._positions[-1].append(position)
        self._positions.append(plain)
        self._plain = [self._all[position] for position in plain]

    def calls(self, *, promote: bool, needs_one: bool, server_ms: float | None) -> list[Command[Settled | Fenced]]:
        """Return the commands: first those that push, so that a claim behind them finds the new jobs."""
        calls = [
            self._commands.settle_with_pushes(
                self._worker, self._turn, str(number), [self._all[position] for position in positions]
            )
            for number, positions in enumerate(self._positions[:-1])
        ]
        if self._plain or needs_one:
            plain = self._commands.settle(
                self._worker, self._turn, self._plain, promote=promote, server_ms=server_ms
            )
            calls.append(plain)
        return calls

    async def answer(self, answers: Sequence[Settled | Fenced], *, is_fenced: bool, run: Run) -> Exchange:
        """Make the further calls that some settlements need; return the answers to all, in order.

        If the worker was fenced meanwhile, the rest is answered LEASE_LOST. Its next call then raises Fenced.

        Raises:
            Fenced: The worker was fenced, and nothing was settled.
            DriverError: A further call failed, or too many calls were needed for one job.
        """
        settled = [(at, answer) for at, answer in enumerate(answers) if isinstance(answer, Settled)]
        if is_fenced and not any(each.ahead.now_us for _, each in settled):  # 0: refused, as the server is full
            raise Fenced(self._worker)
        server_ms = max(each.ahead.now_us for _, each in settled) / 1000 if is_fenced else 0
        turns = any(each.ahead.turns for _, each in settled)
        if not self._positions:
            return Exchange(settled[0][1].replies if settled else (), turns=turns, server_ms=server_ms)
        replies = [Reply.LEASE_LOST] * len(self._all)
        added: dict[int, Sequence[bool]] = {}
        spoiled: dict[int, str] = {}
        for call, answer in settled:
            steps, texts = count(1), answer.texts or [b""] * len(answer.replies)
            for position, reply, text in zip(self._positions[call], answer.replies, texts, strict=True):
                if reply is Reply.PARTIAL:
                    if is_fenced:
                        continue
                    reply, text, ended_turn = await self._settle_rest(position, text, f"{call}.", steps, run)
                    turns = turns or ended_turn
                replies[position] = reply
                if reply is Reply.SPOILED:
                    spoiled[position] = unquote(text, errors="replace")
                elif text:
                    added[position] = [bit == _YES for bit in text]
        return Exchange(replies, added=added, turns=turns, spoiled=spoiled, server_ms=server_ms)

    async def _settle_rest(
        self, position: int, looked: bytes, call: str, steps: Iterator[int], run: Run
    ) -> tuple[Reply, bytes, bool]:
        """Settle one job that pushes others, after a call that met large jobs and checked only some of the pushes.

        If an answer is lost, the worker sends the whole exchange again in the same calls, each with its number.

        Returns the reply, the text behind it, and whether a job in line may start now. Each call settles the job,
        or checks at least one more push and frees its key. So the calls end, unless other producers push a large
        job under that key each time, and that job starts.
        """
        lease, settlement = self._all[position]
        assert isinstance(settlement, Ack | AddChildren | Suspend)
        pushes = settlement.pushes
        numbers = list(range(len(pushes)))  # of the jobs still to be pushed
        added = bytearray(b"0" * len(pushes))
        for _ in range(_SPARE_STEPS + 2 * len(numbers)):
            if isinstance(settlement, Ack):
                numbers = [number for at, number in enumerate(numbers) if at >= len(looked) or looked[at] == _YES]
            else:  # children: those that were looked at are added
                _note_added(added, numbers, looked)
                numbers = numbers[len(looked) :]
            rest = replace(settlement, pushes=[pushes[number] for number in numbers])
            name = f"{call}{next(steps)}"
            (answer,) = await run(
                self._commands.settle_with_pushes(self._worker, self._turn, name, [(lease, rest)])
            )
            if isinstance(answer, Fenced):
                return Reply.LEASE_LOST, b"", False
            (reply,), looked = answer.replies, answer.texts[0] if answer.texts else b""
            if reply is Reply.OK:
                _note_added(added, numbers, looked)
                return reply, bytes(added), answer.ahead.turns
            if reply is not Reply.PARTIAL:
                return reply, looked, answer.ahead.turns
        raise DriverError("a job was not settled: again and again, large jobs had the ids or keys of its pushes")


def _pushes(settlement: Settlement) -> Sequence[NewJob]:
    return settlement.pushes if isinstance(settlement, Ack | AddChildren | Suspend) else ()


def _grows(settlement: Settlement) -> bool:
    """Return whether a full server must not take a settlement: it makes room for nothing."""
    return isinstance(settlement, EmitChunks | SaveStep | ReportProgress) or bool(_pushes(settlement))


def _note_added(added: bytearray, numbers: Sequence[int], looked: bytes) -> None:
    for number, bit in zip(numbers, looked, strict=False):
        added[number] = bit

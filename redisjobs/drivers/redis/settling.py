"""The settlements of one exchange, and the calls in which they go."""

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
from redisjobs.model.transitions import (
    MOST_JOBS,
    Ack,
    Exchange,
    NewJob,
    Reply,
    Settlement,
    Settlements,
    Turn,
    weight_of,
)

Run = Callable[[Command[Any]], Awaitable[list[Any]]]

_YES = ord("1")
_SPARE_STEPS = 10  # calls that may settle nothing, of those that settle a job which pushes others


class Settling:
    """The settlements of one exchange: those that push jobs go in calls of their own, before the others.

    A server that is out of memory refuses only these. Each pushes a bounded number of jobs and bytes.
    """

    def __init__(self, commands: WorkerCommands, worker: str, turn: Turn | None, settlements: Settlements) -> None:
        self._commands = commands
        self._worker = worker
        self._turn = turn
        self._all = settlements
        self._plain = settlements
        self._positions: list[list[int]] = []  # of those of each call; none: all go in one
        for _, one in settlements:  # any() takes twice as long, and each job goes by here
            if type(one) is Ack and one.pushes:
                self._part()
                break

    def _part(self) -> None:
        plain: list[int] = []
        jobs = size = 0
        for position, (_, settlement) in enumerate(self._all):
            pushes = _pushes(settlement)
            if not pushes:
                plain.append(position)
                continue
            if not self._positions or jobs + len(pushes) > MOST_JOBS or size > REPLY_BYTES:
                self._positions.append([])
                jobs = size = 0
            jobs += len(pushes)
            size += sum(map(weight_of, pushes))
            self._positions[-1].append(position)
        self._positions.append(plain)
        self._plain = [self._all[position] for position in plain]

    def calls(self, *, promote: bool, needs_one: bool, server_ms: float | None) -> list[Command[Settled | Fenced]]:
        """Return the commands; those that push first, so that their jobs are there to be claimed."""
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
        """Return the answers to all settlements, in their own order, after the further calls that some take.

        If the worker was fenced meanwhile, what was not settled is lost. It hears of that by its next call.

        Raises:
            Fenced: The worker was fenced, and nothing was settled.
            DriverError: A further call failed, or they come to no end.
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
        """Settle one again, to the end: a call looked at some of its pushes only, as it met large jobs.

        Should an answer be lost, the whole exchange is sent again in the same calls: each is known by its number.

        Returns its word, what follows it, and whether a job in line may start now. Each step settles, or looks at
        one more of the pushed jobs and frees its key. So it ends, unless each time others push a large job under
        that key, and it starts.
        """
        lease, settlement = self._all[position]
        assert isinstance(settlement, Ack)
        numbers = list(range(len(settlement.pushes)))  # of the jobs still to be pushed
        for _ in range(_SPARE_STEPS + 2 * len(numbers)):
            numbers = [number for at, number in enumerate(numbers) if at >= len(looked) or looked[at] == _YES]
            rest = replace(settlement, pushes=[settlement.pushes[number] for number in numbers])
            name = f"{call}{next(steps)}"
            (answer,) = await run(
                self._commands.settle_with_pushes(self._worker, self._turn, name, [(lease, rest)])
            )
            if isinstance(answer, Fenced):
                return Reply.LEASE_LOST, b"", False
            (reply,), looked = answer.replies, answer.texts[0] if answer.texts else b""
            if reply is Reply.OK:
                added = bytearray(b"0" * len(settlement.pushes))
                for number, bit in zip(numbers, looked, strict=False):
                    added[number] = bit
                return reply, bytes(added), answer.ahead.turns
            if reply is not Reply.PARTIAL:
                return reply, looked, answer.ahead.turns
        raise DriverError("the jobs that these settlements push meet large ones again and again")


def _pushes(settlement: Settlement) -> Sequence[NewJob]:
    return settlement.pushes if isinstance(settlement, Ack) else ()

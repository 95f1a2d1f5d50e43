"""Moves a queue from one store to another, each job once; `redisjobs/model/moving.py` says how.

A mover may be killed at any point, and several may run: the next one goes on.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import anyio

from redisjobs.base.visible import number_of
from redisjobs.control.move.settings import copy_settings
from redisjobs.errors import DriverError, QueueFull, Unavailable
from redisjobs.model.changes import Cancel, Change
from redisjobs.model.children import FindChildren
from redisjobs.model.driver import Driver, Unsupported
from redisjobs.model.job import ASIDE, State
from redisjobs.model.moving import MOST_OUTCOME_BYTES, FindTaken, ForgetTaken, Import, Take, Taken
from redisjobs.model.queries import Count, Counts, GetBacklog, Query, Row, Scan, Scanned
from redisjobs.model.times import LONGEST_TRY
from redisjobs.model.transitions import Pushed, Reply

T = TypeVar("T")
Say = Callable[[str], object]
"""Called with a line about the progress."""

_STATES: Sequence[State] = [state for state in State if state is not State.RUNNING]  # in this order
_PAUSES = (0.1, 0.5, 1.0, 2.0, 5.0)  # seconds before each new try, the last one for all others
_LOOKS = (1.0, 30.0)  # seconds between two looks for jobs that have run: at least, and at most
_LOOKING = 9  # between these, the pause is this many times as long as the look: many jobs may stay
_SAY = 2.0  # seconds between two lines about the progress


class SameQueue(DriverError):
    """Both ends are one queue, or one is a copy of the other."""


@dataclass(slots=True)
class Moved:
    """What a mover has done.

    Attributes:
        jobs: How many jobs it has moved.
        in_transit: How many are still in transit.
        refused: Those of them that the target can't take, with its answer.
        left: How many jobs are still in each state at the source; no state without jobs.
        stays: How many of them stay, because of children: see `Took`.
        stopped: Whether it was stopped before the end.
    """

    jobs: int = 0
    in_transit: int = 0
    refused: Sequence[tuple[Taken, Pushed]] = ()
    left: Mapping[State, int] = field(default_factory=dict)
    stays: Mapping[State, int] = field(default_factory=dict)
    stopped: bool = False

    @property
    def is_done(self) -> bool:
        """Whether the source has no job any more."""
        return not (self.stopped or self.in_transit or self.left)


class _Stopped(Exception):
    """The mover is to stop."""


class Mover:
    """Moves a queue.

    Args:
        source: Where from.
        target: Where to.
        say: Gets lines about the progress.
    """

    def __init__(self, source: Driver, target: Driver, say: Say) -> None:
        self._source, self._target, self._say = source, target, say
        self._stop = anyio.Event()
        self._trouble = ""
        self._moved, self._after = Moved(), ""
        self._refused: dict[str, tuple[Taken, Pushed]] = {}
        self._most_bytes = MOST_OUTCOME_BYTES
        self._stays = Counter[State]()  # jobs that stay, by the last look
        self._said, self._said_at = "", 0.0

    def stop(self) -> None:
        """Let `run` return after the present step. Call it in the event loop of `run`."""
        self._stop.set()

    @property
    def is_stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stop.is_set()

    async def run(self) -> Moved:
        """Move jobs until the source has none, or until stopped. While a store is unavailable or full, wait.

        Raises:
            SameQueue: There is nothing to move.
            DriverError: A store refuses; at the start, also if it is unavailable. Nothing is lost.
        """
        try:
            await self._check()
            await copy_settings(_MoveEnd(self, self._source), _MoveEnd(self, self._target), self._say)
            await self._move()
        except _Stopped:
            self._moved.stopped = True
        finally:
            with anyio.CancelScope(shield=True):
                await self._source.aclose()
                await self._target.aclose()
        self._moved.refused = [*self._refused.values()]
        return self._moved

    async def _check(self) -> None:
        names = [(await driver.change(Take())).store for driver in (self._source, self._target)]
        if names[0] == names[1]:
            raise SameQueue("both ends are one queue, or one is a copy of the other: there is nothing to move")
        try:
            await self._target.read(FindChildren(""))
        except Unsupported:  # so jobs that have had children end at the source
            self._most_bytes = -1

    async def _move(self) -> None:
        await self._bring()  # what an earlier move has left in transit
        is_last_look = False
        while True:
            began = anyio.current_time()
            counts = await self.ask(self._source, Count())
            there, self._stays = {state: counts.of(state) for state in _STATES}, Counter()
            took = sum([await self._take_all(state) for state in _STATES if there[state]])
            left = {state: number for state, number in there.items() if number}
            self._moved.left, self._moved.stays = (left, +self._stays) if not took else ({}, {})
            waits = counts.running + counts.inbox + self._families
            if not took and not waits and (is_last_look or not left) and not await self._bring():
                return
            is_last_look = not took and not waits
            if not took:
                self._tell(await self._waits(counts) if waits else "looking again")
                pause = _LOOKING * (anyio.current_time() - began)
                await self._sleep(min(max(pause, _LOOKS[0]), _LOOKS[1]))

    @property
    def _families(self) -> int:
        """How many jobs stay until children have ended; not dead letters, which may wait for ever."""
        return self._stays.total() - self._stays[State.DEAD]

    async def _waits(self, counts: Counts) -> str:
        """Return what the mover waits for, and whether that may come."""
        text = f"waiting for {_waited_for(counts, self._families)}"
        if (await self.ask(self._source, GetBacklog())).workers:
            return text
        return f"{text}; no worker of the source is alive: start one, which takes over what others have left"

    async def _take_all(self, state: State) -> int:
        """Move all jobs of a state that are there now; return how many were taken."""
        took = 0
        async for rows in self._pages(state):
            for row in rows:
                if row.cancelling:  # it waits for a worker that ends it
                    await self.ask(self._source, Cancel(row.job_id))
            wanted = [row for row in rows if not row.cancelling]
            while wanted:
                replies = (await self.ask(self._source, Take(wanted, self._most_bytes))).replies
                took += replies.count(Reply.OK)
                self._stays[state] += replies.count(Reply.STAYS)
                wanted = [row for row, reply in zip(wanted, replies, strict=True) if reply is Reply.PARTIAL]
                await self._bring()
        return took

    async def _pages(self, state: State) -> AsyncIterator[Sequence[Row]]:
        """Yield the jobs of a state in the order in which the target is to have them, the oldest first.

        A scan of ended jobs begins at the newest. So it runs to the end, and then each step again, backwards.
        """
        afters = [""]
        while state in ASIDE and (step := await self._scan(state, afters[-1])).after:
            afters.append(step.after)
        for after in reversed(afters):
            step = await self._scan(state, after)
            yield step.rows[::-1] if state in ASIDE else step.rows
        while state not in ASIDE and step.after:
            step = await self._scan(state, step.after)
            yield step.rows

    async def _scan(self, state: State, after: str) -> Scanned:
        return await self.ask(self._source, Scan(state, after=after))

    async def _bring(self) -> bool:
        """Import the jobs in transit, also those of other movers, and forget those that the target has.

        Returns:
            Whether there were any.
        """
        found = False
        while True:
            there = await self.ask(self._source, FindTaken(self._after))
            self._moved.in_transit = there.total
            if not there.jobs:
                return found
            found = True
            answers = await self.ask(self._target, Import(there.store, there.jobs))
            has = list[str]()
            for job, answer in zip(there.jobs, answers, strict=True):
                if answer.reply in (Reply.OK, Reply.REPEATED):
                    has.append(job.place)
                else:
                    self._refused[job.place] = job, answer
                self._moved.jobs += answer.reply is Reply.OK
            if has:
                await self.ask(self._source, ForgetTaken(has))
                self._moved.in_transit -= len(has)
            self._after = there.jobs[-1].place
            self._tell(f"moved {number_of(self._moved.jobs, 'job')}")

    async def ask(self, driver: Driver, asked: Query[T] | Change[T]) -> T:
        """Ask a store until it answers. Each call may be repeated."""
        pauses = iter(_PAUSES)
        while not self._stop.is_set():
            try:
                with anyio.fail_after(LONGEST_TRY):
                    answer = await (driver.read(asked) if isinstance(asked, Query) else driver.change(asked))
            except (Unavailable, QueueFull, TimeoutError) as error:
                self._say_trouble(f"{driver.where}: {str(error) or 'no answer'}; trying again")
                await self._sleep(next(pauses, _PAUSES[-1]))
            else:
                self._trouble = ""
                return answer
        raise _Stopped

    async def _sleep(self, seconds: float) -> None:
        with anyio.move_on_after(seconds):
            await self._stop.wait()

    def _say_trouble(self, text: str) -> None:
        if text != self._trouble:
            self._trouble = text
            self._say(text)

    def _tell(self, text: str) -> None:
        """Say a line about the progress, if it is new and the last one was not just now."""
        now = anyio.current_time()
        if text != self._said and now >= self._said_at + _SAY:
            self._said, self._said_at = text, now
            self._say(text)


class _MoveEnd:
    """One end of a move, which its mover asks until it answers."""

    def __init__(self, mover: Mover, driver: Driver) -> None:
        self._mover, self._driver = mover, driver

    async def read(self, query: Query[T], /) -> T:
        return await self._mover.ask(self._driver, query)

    async def change(self, change: Change[T], /) -> T:
        return await self._mover.ask(self._driver, change)


def _waited_for(counts: Counts, families: int) -> str:
    inbox = f"{number_of(counts.inbox, 'entry')} of the inbox" if counts.inbox == 1 else ""
    inbox = inbox or (f"{counts.inbox:,} entries of the inbox" if counts.inbox else "")
    running = number_of(counts.running, "running job") if counts.running else ""
    family = f"children, and parents that wait for them ({number_of(families, 'job')})" if families else ""
    return " and ".join(filter(None, [running, inbox, family]))

"""One run of a worker: it claims jobs into free slots, runs them, and settles what they came to.

One task, the conductor, does all the talking: each of its round trips settles every outcome there is and, if
slots are free, claims as many jobs at once. Outcomes that arrive while one is under way go together in the
next. With nothing to do it leaves the waiting to a blocking read on a connection of its own.
"""

import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import TypeVar

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from redisjobs import __version__
from redisjobs.driver import Lease, Nudge, Release, Word
from redisjobs.errors import DriverError, QueueFull, Unavailable
from redisjobs.fate import CancelAsked, Interrupted, LeaseGone
from redisjobs.heartbeat import Heartbeat
from redisjobs.running import Running, Settings
from redisjobs.waker import waker

T = TypeVar("T")

logger = logging.getLogger("redisjobs.worker")

_NOT_NOW = (Unavailable, QueueFull)  # the store is away or full: wait, keep what we hold, try again
_WAIT = 5.0  # seconds of one blocking read
_RECLAIM = 2.0  # seconds between looks for leases that ran out; less for a short lease
_TIDY = 60.0  # seconds between looks for what dead workers left behind
_UNWIND = 0.5  # seconds that cancelled handlers have to clean up before their jobs are handed on
_FAREWELL = 5.0  # seconds for the last settlements; after that the leases run out by themselves


class Shift:
    """One run of a worker, from its first claim to its last settlement."""

    def __init__(self, settings: Settings, *, until_idle: bool) -> None:
        self.settings = settings
        self.until_idle = until_idle
        self.consumer = settings.queue.driver.consumer(
            settings.worker_id, lease=settings.lease, max_deliveries=settings.max_deliveries
        )
        self.threads = anyio.CapacityLimiter(settings.concurrency)
        self.leased: dict[str, Running] = {}  # by place: all that run or are still to be settled
        self.outbox: list[Running] = []  # those that have a fate, to be settled
        self.busy = 0  # slots taken
        self.clock = 0.0  # the server's clock less our monotonic one, s
        self.due_at: float | None = None  # when the next delayed job is, by our monotonic clock
        self.waiting: anyio.CancelScope | None = None  # around the blocking read

        self.unsure = False  # jobs may have been delivered into a reply that was lost
        self.promote = False  # a delayed job may be due
        self.reclaim = True  # it is time to look for leases that ran out
        self.tidy_at = time.monotonic() + _TIDY * random.random()
        self.stopping = False
        self.grace_until = float("inf")  # by our monotonic clock
        self.cut = False  # the grace is over, and so is the time to unwind

        self.attention = anyio.Event()  # the conductor has something to do
        self.idle = anyio.Event()  # nothing was there to claim: wait for it
        self.due_changed = anyio.Event()
        self.grace_changed = anyio.Event()
        self.started = datetime.now(UTC)

    async def run(self) -> None:
        """Work until stopped, or until idle if so asked; what is still held at the end is released."""
        await self._open()
        self.heartbeat = Heartbeat(
            self.consumer.heartbeat(), self.settings.lease, self._held, self._facts, self._renewed(waker())
        )
        self.heartbeat.start()
        try:
            self.slots, inbox = anyio.create_memory_object_stream[Running](float("inf"))
            with self.slots, inbox:
                async with anyio.create_task_group() as tasks:
                    self._start(tasks, inbox)
                    await self._conduct()
                    # Before the handlers are waited for: one that won't end must not keep the others' jobs.
                    await self._farewell()
                    tasks.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await self._farewell()
                await anyio.to_thread.run_sync(self.heartbeat.stop, 1.0)
                await self.consumer.aclose()
        logger.info("worker %s ended", self.settings.worker_id)

    def stop(self, grace: float) -> None:
        """Claim no more, and give up what still runs after `grace` seconds."""
        self.stopping = True
        self.grace_until = min(self.grace_until, time.monotonic() + grace)
        if self.waiting is not None:
            self.waiting.cancel()
        self.attention.set()
        self.grace_changed.set()

    async def _open(self) -> None:
        """Reach the store, however long that takes."""

        def say(state: RetryCallState) -> None:
            logger.warning("the store is away, trying on: %s", state.outcome and state.outcome.exception())

        for warning in await _until_there(self.consumer.open, say):
            logger.warning("%s", warning)
        names = ", ".join(sorted(self.settings.queue.definitions)) or "no handlers"
        queue, slots = self.settings.queue.name, self.settings.concurrency
        logger.info("worker %s runs queue '%s' in %d slots: %s", self.settings.worker_id, queue, slots, names)

    def _start(self, tasks: TaskGroup, inbox: MemoryObjectReceiveStream[Running]) -> None:
        for duty in (self._wait, self._listen, self._watch_due, self._watch_leases, self._watch_grace):
            tasks.start_soon(duty)
        # Slots live as long as the worker: a task a job would cost more than all the rest of it.
        for _ in range(self.settings.concurrency):
            tasks.start_soon(self._slot, inbox)

    # The conductor

    async def _conduct(self) -> None:
        """Settle and claim until stopped, or until nothing is left to do."""
        while not self._ended():
            self.attention = anyio.Event()
            try:
                worked = await self._turn()
            except _NOT_NOW as error:
                await self._wait_out(error)
                continue
            if self.until_idle and not worked and not self.leased:
                return
            if not worked:
                await self.attention.wait()

    def _ended(self) -> bool:
        return self.cut or (self.stopping and not self.leased)

    async def _turn(self) -> bool:
        """Do one thing that is to be done; whether there was any."""
        now = time.monotonic()
        if self.unsure:
            await self._recover()
        elif self.reclaim and self.free and now - self.heartbeat.renewed < self.settings.lease / 2:
            # Not while our own leases may have run out: we would take them over from ourselves.
            await self._reclaim()
        elif now >= self.tidy_at:
            self.tidy_at = now + _TIDY
            await self.consumer.tidy()
        elif self.outbox or self.promote or (self.free and not self.waiting):
            return await self._exchange()
        else:
            return False
        return True

    @property
    def free(self) -> int:
        """How many jobs could start now."""
        return 0 if self.stopping else self.settings.concurrency - self.busy

    async def _exchange(self) -> bool:
        """Settle every outcome there is and fill the free slots, in one round trip; whether that did anything."""
        settling, self.outbox = self.outbox, []
        count = self.free if not self.waiting else 0
        asks = (count or self.promote) and not self.stopping
        self.promote = False
        try:
            settlements = [(run.lease, run.fate) for run in settling if run.fate]
            answer = await self.consumer.exchange(settlements, count if asks else None)
        except BaseException:
            for run in settling:
                run.resent = True
            self.outbox = settling + self.outbox
            self.unsure = True
            raise

        for run, word in zip(settling, answer.words, strict=True):
            self._settled(run, word)
        if asks:
            now = time.monotonic()
            self.clock = answer.server_ms / 1000 - now
            self._set_due(None if answer.due_in is None else now + answer.due_in)
            self._dispatch(answer.leases)
        if count and len(answer.leases) < count and not self.until_idle:
            self.waiting = anyio.CancelScope()
            self.idle.set()
        return bool(settling or answer.leases)

    def _dispatch(self, leases: Sequence[Lease]) -> None:
        """Give leased jobs to free slots; what exceeds them goes back."""
        for lease in leases:
            mine = self.leased.get(lease.place)
            if mine is not None:  # our own, taken over after a stall: the handler still runs
                mine.lease = lease
                continue
            run = self.leased[lease.place] = Running(lease, self.settings, self.threads)
            if self.free:
                self.busy += 1
                self.slots.send_nowait(run)
            else:
                run.over, run.fate = True, Release()
                self.outbox.append(run)
        self.attention.set()

    async def _recover(self) -> None:
        """Hand back what was delivered into a lost reply: we never saw it, so we can't run it."""
        released = await self.consumer.release_all([run.lease for run in self.leased.values()])
        self.unsure = False
        if released:
            logger.info("released %d jobs whose delivery was lost on the way", released)

    async def _reclaim(self) -> None:
        leases = await self.consumer.reclaim(self.free)
        # Where one look found as many as there was room for, there may be more.
        self.reclaim = bool(leases) and len(leases) >= self.free
        for lease in leases:
            logger.warning("reclaimed job %s, delivery %d: its worker is gone", lease.job_id, lease.deliveries)
        self._dispatch(leases)

    async def _wait_out(self, error: DriverError) -> None:
        """The store is away: keep what we hold, and try again with backoff until it is back."""
        logger.warning("the store is away, holding %d jobs and trying on: %s", len(self.leased), error)

        async def probe() -> None:
            if not self._ended():
                await self._recover()
                logger.info("the store is back")

        await _until_there(probe)

    async def _farewell(self) -> None:
        """Settle what has an outcome and release all the rest, also what was delivered and never seen."""
        for run in list(self.leased.values()):
            if not run.over:
                run.over, run.fate = True, Release()
                run.give_up(Interrupted())
                self.outbox.append(run)

        async def settle() -> None:
            self.stopping = True
            if self.outbox:
                await self._exchange()
            await self.consumer.release_all([])

        with anyio.move_on_after(_FAREWELL) as scope:
            await _until_there(settle)
        if scope.cancelled_caught:
            logger.warning(
                "the store is away at the end: %d jobs run elsewhere once their leases are over",
                len(self.leased),
            )

    # Slots

    async def _slot(self, inbox: MemoryObjectReceiveStream[Running]) -> None:
        async for run in inbox:
            outcome = await run.run(self._server_ms())
            self.busy -= 1
            if not run.over:
                run.over = True
                run.decide(outcome, self._server_ms())
                if run.fate is None:
                    self.leased.pop(run.lease.place, None)
                else:
                    self.outbox.append(run)
            self.attention.set()

    def _server_ms(self) -> int:
        return int((time.monotonic() + self.clock) * 1000)

    def _settled(self, run: Running, word: Word) -> None:
        self.leased.pop(run.lease.place, None)
        run.report(word)

    # Waiting

    async def _wait(self) -> None:
        """Block until a job is there, whenever the conductor found none."""
        while True:
            await self.idle.wait()
            self.idle = anyio.Event()
            if self.waiting is not None:
                with self.waiting as scope:
                    await self._read()
                self.unsure = self.unsure or scope.cancelled_caught
            self.waiting = None
            self.attention.set()

    async def _read(self) -> None:
        try:
            # COUNT goes for each of three streams, so a third of the slots leaves little to hand back.
            leases = await self.consumer.wait(max(1, self.free // 3), _WAIT)
        except _NOT_NOW:
            self.unsure = True
        else:
            self._dispatch(leases)

    async def _listen(self) -> None:
        """Hear nudges, and listen again when the connection ends."""

        async def listen() -> None:
            await self.consumer.listen(self._heard)

        await _until_there(listen)

    def _heard(self, nudge: Nudge) -> None:
        match nudge.kind:
            case "cancel":
                for run in list(self.leased.values()):
                    if run.lease.job_id == nudge.value:
                        run.give_up(CancelAsked())
            case "released":
                if self.waiting is not None:
                    self.waiting.cancel()
            case "due" if nudge.value.isdigit():
                due_at = int(nudge.value) / 1000 - self.clock
                if self.due_at is None or due_at < self.due_at:
                    self._set_due(due_at)
            case "subscribed":  # what was said before was missed
                self.promote = True
                self.attention.set()

    def _set_due(self, due_at: float | None) -> None:
        self.due_at = due_at
        self.due_changed.set()

    async def _watch_due(self) -> None:
        """Promote delayed jobs on time: a blocking read ends on the server's 100 ms timer, too coarse for that."""
        while True:
            self.due_changed = anyio.Event()
            wait = float("inf") if self.due_at is None else self.due_at - time.monotonic()
            with anyio.move_on_after(max(0.0, wait)) as until_due:
                await self.due_changed.wait()
            if until_due.cancelled_caught:
                self.due_at = None
                self.promote = True
                self.attention.set()

    async def _watch_leases(self) -> None:
        interval = min(_RECLAIM, self.settings.lease / 4)
        while True:
            await anyio.sleep(interval * random.uniform(0.9, 1.0))
            self.reclaim = True
            self.attention.set()

    async def _watch_grace(self) -> None:
        """When the grace is over: cancel what runs, give it a moment to clean up, then let go of it."""
        while time.monotonic() < self.grace_until:
            self.grace_changed = anyio.Event()
            with anyio.move_on_after(self.grace_until - time.monotonic()):
                await self.grace_changed.wait()
        for run in list(self.leased.values()):
            run.give_up(Interrupted())
        await anyio.sleep(_UNWIND)
        self.cut = True
        self.attention.set()

    # The heartbeat's side: called in its thread

    def _held(self) -> list[Lease]:
        return [run.lease for run in list(self.leased.values())]

    def _facts(self) -> dict[str, str]:
        host, pid, *_ = [*self.settings.worker_id.split(":"), "", ""]
        return {
            "host": host,
            "pid": pid,
            "started": self.started.isoformat(timespec="seconds"),
            "concurrency": str(self.settings.concurrency),
            "running": str(self.busy),
            "version": __version__,
        }

    def _renewed(
        self, wake: Callable[[Callable[[], object]], None]
    ) -> Callable[[Sequence[Lease], Sequence[Word]], None]:
        def answered(leases: Sequence[Lease], words: Sequence[Word]) -> None:
            if any(word is not Word.OK for word in words):
                wake(lambda: self._learn(leases, words))

        return answered

    def _learn(self, leases: Sequence[Lease], words: Sequence[Word]) -> None:
        """Act on what the heartbeat was told; what was settled meanwhile is not concerned."""
        for lease, word in zip(leases, words, strict=True):
            run = self.leased.get(lease.place)
            if run is None or run.lease is not lease or run.over:
                continue
            if word is Word.CANCELLING:
                run.give_up(CancelAsked())
            elif word is Word.LEASE_LOST:
                logger.warning("job %s: the lease was lost; its handler is cancelled", lease.job_id)
                run.give_up(LeaseGone())


async def _until_there(call: Callable[[], Awaitable[T]], say: Callable[[RetryCallState], None] | None = None) -> T:
    """Call the store, again with backoff and jitter as long as it is away; what `call` returned."""
    retrying = AsyncRetrying(
        retry=retry_if_exception_type(_NOT_NOW),
        wait=wait_random_exponential(multiplier=0.05, max=1),
        before_sleep=say,
        sleep=anyio.sleep,
    )
    return await retrying(call)

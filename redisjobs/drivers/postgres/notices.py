"""Notifications that the clients send after a commit, together: each NOTIFY holds up all commits for a moment."""

import asyncio
import hashlib
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

from redisjobs.drivers.postgres.entries import given
from redisjobs.errors import DriverError

PAUSE = 0.01
"""Seconds between two statements that notify."""

# Commits that notify wait for each other. This one is only a hint, so it does not wait for the disk.
NOTIFY = (
    b"select pg_notify(channel, payload), set_config('synchronous_commit', 'off', true)"
    b" from unnest($1::text[], $2::text[]) as sent(channel, payload)"
)

_LINE_FEED = "\U0010f00a"  # stands for one, which ends a notice; see `entries` for other such characters
_MOST_BYTES = 7900  # of a payload; Postgres takes less than 8000
_MOST = 500  # notifications in one statement
_MOST_CHANGED = 100  # notifications of jobs for one process at once; beyond, it gets one `subscribed`


@dataclass(frozen=True, slots=True)
class Notice:
    """A notification for all who listen to a queue, or only for the process that waits for one of its jobs."""

    process: str
    kind: str
    value: str

    @property
    def given(self) -> str:
        """The value with the characters that stand as others in the database."""
        return given(self.value.replace(_LINE_FEED, "\n"))


def notices_in(told: str) -> list[Notice]:
    """Return the notifications in a text, one a line; without lines of others, as any client may notify."""
    parts = (line.split("\t", 2) for line in told.split("\n"))
    return [Notice(part[0], part[1], part[2]) for part in parts if len(part) == 3 and part[1]]


def payload_of(notice: Notice) -> str:
    """Return what NOTIFY sends of a notice."""
    payload = f"{notice.process}\t{notice.kind}\t{notice.value}"
    return payload if len(payload.encode()) <= _MOST_BYTES else f"{notice.process}\tsubscribed\t"


@cache
def channel_of(queue: str) -> str:
    """Return the channel of a queue."""
    return f"redisjobs_{hashlib.md5(queue.encode(), usedforsecurity=False).hexdigest()}"


class Pending:
    """Notices that wait to be sent, in order; equal ones are sent once. Any thread may add and take."""

    def __init__(self) -> None:
        self._notices: deque[tuple[str, Notice]] = deque()

    def __bool__(self) -> bool:
        return bool(self._notices)

    def add(self, channel: str, notices: Iterable[Notice]) -> None:
        self._notices.extend((channel, each) for each in notices)

    def take(self) -> tuple[list[str], list[str]]:
        """Return the channels and payloads of one statement."""
        taken: dict[tuple[str, str], None] = {}
        changed: dict[str, int] = {}
        with suppress(IndexError):  # none is left
            while len(taken) < _MOST:
                channel, notice = self._notices.popleft()
                payload = payload_of(notice)
                if notice.kind == "changed":
                    changed[notice.process] = changed.get(notice.process, 0) + 1
                    if changed[notice.process] > _MOST_CHANGED:
                        payload = payload_of(Notice(notice.process, "subscribed", ""))
                if notice.kind == "ready":  # it only wakes those who wait for any job
                    payload = payload_of(Notice("", "ready", ""))
                taken.pop((channel, payload), None)  # of equal ones the last counts: paused, resumed, paused
                taken[channel, payload] = None
        return [channel for channel, _ in taken], [payload for _, payload in taken]


IsOpen = Callable[[], bool]
_LOOKS = (0.002, 0.1)  # seconds between two looks at a transaction: at first, and at most
_EARLY = 0.25  # seconds after which notices are sent also if the transaction seems open: it may be the next one


@dataclass(slots=True)
class _Following:
    is_open: IsOpen
    channel: str
    notices: dict[Notice, None]
    began: float
    early: float

    @property
    def is_over(self) -> bool:
        try:
            return not self.is_open()
        except Exception:  # a connection that is closed or in use elsewhere: its library may raise anything
            return True


class Followed:
    """Transactions of callers, with notices to send once they have ended. Any thread may add and look.

    No library tells us of a commit, so we look: soon, and the longer it takes the more seldom.
    """

    def __init__(self) -> None:
        self._all: dict[Hashable, _Following] = {}

    def __bool__(self) -> bool:
        return bool(self._all)

    @property
    def pause(self) -> float:
        """The seconds until the next look."""
        began = max((each.began for each in list(self._all.values())), default=0.0)
        return min(max((time.monotonic() - began) / 10, _LOOKS[0]), _LOOKS[1])

    def add(self, connection: Hashable, is_open: IsOpen, channel: str, notices: Iterable[Notice]) -> None:
        """Add what is to be sent once the transaction of a connection has ended."""
        key, now = (connection, channel), time.monotonic()
        known = self._all.get(key)
        before, early = (known.notices, known.early) if known is not None else ({}, now + _EARLY)
        self._all[key] = _Following(is_open, channel, {**before, **dict.fromkeys(notices)}, now, early)

    def ended(self) -> list[tuple[str, list[Notice]]]:
        """Return the channels and notices of those that have ended, and of those that may have."""
        now, found = time.monotonic(), list[tuple[str, list[Notice]]]()
        for key, each in list(self._all.items()):
            is_over = each.is_over
            if is_over and self._all.get(key) is each:
                self._all.pop(key, None)
            if is_over or now >= each.early:
                found.append((each.channel, list(each.notices)))
                each.early = now + 2 * (now - each.began + _EARLY)
        return found


class Notifier:
    """Sends the notices of an event loop: at once after a pause, else together when the pause is over.

    `send` sends channels and payloads over a connection. What it can't send is lost: workers that wait look again.
    """

    def __init__(self, send: Callable[[Sequence[str], Sequence[str]], Awaitable[object]]) -> None:
        self._send = send
        self._pending = Pending()
        self._task: asyncio.Task[None] | None = None
        self._followed = Followed()
        self._following: asyncio.Task[None] | None = None

    def tell_after(self, connection: Hashable, is_open: IsOpen, channel: str, notices: Iterable[Notice]) -> None:
        """Send notices soon after the transaction of a connection has ended."""
        self._followed.add(connection, is_open, channel, notices)
        if self._following is None or self._following.done():
            self._following = asyncio.get_running_loop().create_task(self._follow())

    async def _follow(self) -> None:
        while self._followed:
            await asyncio.sleep(self._followed.pause)
            self._tell_ended()

    def _tell_ended(self) -> None:
        for channel, notices in self._followed.ended():
            self.tell(channel, notices)

    async def aclose(self) -> None:
        """Send what there is, and look at no transaction any more."""
        self._tell_ended()
        if self._following is not None:
            self._following.cancel()
            self._following = None
        await self.flush()

    def tell(self, channel: str, notices: Iterable[Notice]) -> None:
        """Send notices soon."""
        self._pending.add(channel, notices)
        if self._pending and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
            self._task.add_done_callback(self._ended)

    async def flush(self) -> None:
        """Send what there is, and wait until it was sent."""
        while self._task is not None:
            await asyncio.wait([self._task])
            await asyncio.sleep(0)

    async def _run(self) -> None:
        while self._pending:
            with suppress(DriverError):
                await self._send(*self._pending.take())
            await asyncio.sleep(PAUSE)

    def _ended(self, _: object) -> None:
        self._task = None


SendNow = Callable[[Sequence[str], Sequence[str]], object]


class SyncNotifier:
    """The same for threads: the thread that has notices sends them, or a timer does if some were just sent."""

    def __init__(self, send: SendNow) -> None:
        self._send = send
        self._pending = Pending()
        self._sent_at = float("-inf")
        self._timer: threading.Timer | None = None
        self._followed = Followed()
        self._follower: threading.Thread | None = None

    def tell_after(self, connection: Hashable, is_open: IsOpen, channel: str, notices: Iterable[Notice]) -> None:
        """Send notices soon after the transaction of a connection has ended."""
        self._followed.add(connection, is_open, channel, notices)
        if self._follower is None or not self._follower.is_alive():
            self._follower = threading.Thread(target=self._follow, daemon=True)
            self._follower.start()

    def _follow(self) -> None:
        while self._followed:
            while self._followed:
                time.sleep(self._followed.pause)
                self._send_ended()
            self._follower = None  # what is added from now on starts another thread; what was before is seen here

    def _send_ended(self) -> None:
        for channel, notices in self._followed.ended():
            self._pending.add(channel, notices)
        if self._pending:
            self.flush()

    def close(self) -> None:
        """Send what there is."""
        self._send_ended()
        self.flush()

    def tell(self, channel: str, notices: Iterable[Notice], send: SendNow) -> None:
        """Send notices: now, by this `send`, or soon."""
        self._pending.add(channel, notices)
        if time.monotonic() - self._sent_at >= PAUSE:
            self.flush(send)
        elif self._timer is None or not self._timer.is_alive():
            self._timer = threading.Timer(PAUSE, self.flush)
            self._timer.daemon = True
            self._timer.start()

    def flush(self, send: SendNow | None = None) -> None:
        """Send what there is."""
        self._sent_at = time.monotonic()
        while self._pending:
            with suppress(DriverError):
                (send or self._send)(*self._pending.take())

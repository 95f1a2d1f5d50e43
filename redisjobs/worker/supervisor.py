"""Keeps worker processes running: restarts those that end, and releases the jobs of a dead one at once.

The supervisor runs no jobs and no event loop. It waits for the next event: a child ended, a stop, or new code. It
knows for sure when a child has died, so that child's jobs need not wait for their lease to run out. Through a
pipe, each child reports its health, and notices when the supervisor is gone.
"""

import logging
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue

from redisjobs.base.logger import Log
from redisjobs.client.backoff import retrying_sync
from redisjobs.client.registry import Registry
from redisjobs.errors import DriverError, Unavailable
from redisjobs.events.kinds import ProcessEnded
from redisjobs.worker.child import NEVER, Child, LastLine, listen
from redisjobs.worker.settings.health import Health
from redisjobs.worker.settings.shutdown import how_ended

logger = Log("redisjobs.supervisor")

_HEALTHY = 10.0  # a child that has lived for this many seconds is restarted at once
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 15.0  # seconds between starts of a child that dies again and again
_MARGIN = 12.0  # seconds after the grace at which a child is killed: it should have ended by then
_RELOAD_GRACE = 0.2  # seconds that running jobs have when the code has changed: its author waits
_RELOAD_MARGIN = 2.0  # seconds after that at which a child is killed, whose jobs may block its event loop
_RELEASING = 5.0  # seconds at the end within which the jobs of dead children may be released
_LAST_LINE = 0.5  # seconds that a dead child's last line may take to arrive
_LOOK = 1.0  # seconds between looks: a signal that another thread gets ends no wait
_STARTING = 60.0  # seconds that a child may take to import what it runs
_LEFT = "its jobs could not be released, and run once their leases are over: %s"
_MISTAKE = 2  # the exit status of wrong usage: another start would end the same way
# -P: without it, Python searches the current directory first, and would import a `queue.py` there instead of its
# own.
PROGRAM = (sys.executable, "-P", "-m", "redisjobs")
"""The command line that runs redisjobs in another process."""


@dataclass(slots=True, eq=False)
class ProcessSlot:
    """The place of one child after another."""

    child: Child | None = None  # None while none runs
    # When the next child starts, by the monotonic clock. None: it does not. NEVER: once the code has changed.
    start_at: float | None = 0.0
    deaths: int = 0  # children that ended in a row, all but the first soon after their start


class Supervisor:
    """Runs `processes` workers until it is stopped, or until each reports that it has drained the queue.

    `command` starts a worker. The supervisor adds `--supervised FD`, the child's end of the pipe. `lease` and
    `grace` are the children's, in seconds. With `reloads`, a child that can't import its code is not started again
    before the next `reload`.
    """

    def __init__(
        self,
        queues: Sequence[Registry],
        command: Sequence[str],
        processes: int,
        *,
        lease: float,
        grace: float,
        reloads: bool = False,
    ) -> None:
        self.queues = queues
        self._command = command
        self._lease = lease
        self._grace = grace
        self._reloads = reloads
        self._slots = [ProcessSlot() for _ in range(processes)]
        self._events: SimpleQueue[Callable[[], None]] = SimpleQueue()  # what to do next
        self._stops = 0
        self._code = 0
        self._began = False  # a child has reported its ids, so the command line is right
        self._releases: list[threading.Thread] = []

    def stop(self) -> None:
        """Let all children stop; at a second call, at once. A signal handler may call it."""
        self._events.put(self._stop)

    def reload(self) -> None:
        """Replace all children, because the code has changed, and release their jobs. Any thread may call it."""
        self._events.put(self._reload)

    @property
    def _children(self) -> list[Child]:
        return [child for slot in self._slots if (child := slot.child) is not None]

    @property
    def health(self) -> Health:
        """Live if every child is, ready if any is. Any thread may read it."""
        children = self._children
        for child in children:
            silent = 3 * self._lease + 2 if child.worker_ids else _STARTING
            if not child.health.live:
                return Health(False, False, f"process {child.process.pid}: {child.health.why}")
            if time.monotonic() - child.noticed_at > silent:
                return Health(False, False, f"process {child.process.pid} has not reported for {silent:g} s")
        # Read each child's health only once: its thread replaces it.
        said = [(child.process.pid, child.health, child.is_partial) for child in children]
        ready = sum(health.ready for _, health, _ in said)
        wrong = [(pid, health) for pid, health, is_partial in said if is_partial or not health.ready]
        why = next((f"; process {pid}: {health.why}" for pid, health in wrong), "")
        return Health(True, ready > 0, f"{ready} of {len(self._slots)} processes are ready{why}")

    def run(self) -> int:
        """Run the workers; return the exit status: 0 after a stop or a finished drain, else a child's."""
        while any(slot.child is not None or slot.start_at is not None for slot in self._slots):
            self._start_due()
            self._end_late()
            with suppress(Empty):
                self._events.get(timeout=self._pause())()
        until = time.monotonic() + _RELEASING
        for thread in self._releases:
            thread.join(max(0.0, until - time.monotonic()))
        return self._code

    def _pause(self) -> float:
        """Return the seconds until there is something to do."""
        times = [slot.start_at for slot in self._slots if slot.start_at is not None]
        times += [at for child in self._children for at in (child.hurry_at, child.kill_at)]
        return min(_LOOK, max(0.0, min(times, default=NEVER) - time.monotonic()))

    def _start_due(self) -> None:
        for slot in self._slots:
            if slot.start_at is not None and slot.start_at <= time.monotonic():
                slot.start_at = None
                try:
                    slot.child = self._start()
                except (OSError, RuntimeError, MemoryError) as error:  # no process or thread to be had just now
                    logger.warning("could not start a worker process, retrying: %s", error)
                    slot.start_at = time.monotonic() + self._backoff(slot, lived=0.0)

    def _start(self) -> Child:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = subprocess.Popen(
                    [*self._command, "--supervised", str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,  # only the supervisor handles Ctrl-C
                )
        except BaseException:
            ours.close()
            raise
        return self._attend(Child(process), ours)

    def _attend(self, child: Child, line: socket.socket) -> Child:
        """Start threads that read a child's reports and wait for its end. If that fails, kill the child."""
        listening = threading.Thread(target=listen, args=(child, line), daemon=True)

        def wait() -> None:
            child.process.wait()
            # Not for long: a process that the child left behind may hold the other end.
            listening.join(_LAST_LINE)
            self._events.put(partial(self._handle_end, child))

        try:
            listening.start()
            threading.Thread(target=wait, daemon=True).start()
        except BaseException:
            child.process.kill()
            child.process.wait()
            if listening.ident is None:  # else that thread closes the line
                line.close()
            raise
        logger.info("started worker process %d", child.process.pid)
        return child

    def _handle_end(self, child: Child) -> None:
        """Handle the end of a child."""
        slot = next(slot for slot in self._slots if slot.child is child)
        slot.child = None
        ended, code, in_order = child.process.pid, child.process.returncode, child.end is not None
        self._began = self._began or bool(child.worker_ids)
        was_asked = self._stops > 0 or child.is_outdated or child.is_leaving
        # The signal may come before the child can handle it, and so before it has claimed a job.
        was_too_early = was_asked and not child.worker_ids and code == -signal.SIGTERM
        was_expected = was_asked or child.end in (LastLine.DRAINED, LastLine.SHARE)
        self._publish_end(child, (in_order and code == 0) or was_too_early, was_expected)
        if not in_order:
            for queue, worker_id in zip(self.queues, child.worker_ids, strict=False):  # no ids: it had not begun
                self._release(queue, worker_id, refund=child.is_outdated)
        if self._stops or child.is_leaving:
            self._code = self._code or (0 if in_order or code == -signal.SIGTERM else 1)
        elif child.is_outdated or child.end is LastLine.SHARE:
            slot.deaths, slot.start_at = 0, 0.0  # it did what it was started for
        elif code == _MISTAKE and self._reloads and not child.worker_ids:
            slot.start_at = NEVER
            logger.error("worker process %d could not start; the next change of the code starts another", ended)
        elif code == _MISTAKE and not self._began:
            self._code = _MISTAKE
            self._stop()
        elif child.end is not LastLine.DRAINED:
            slot.start_at = time.monotonic() + self._backoff(slot, time.monotonic() - child.started_at)

    def _publish_end(self, child: Child, in_order: bool, was_expected: bool) -> None:
        ended, code = child.process.pid, child.process.returncode
        is_late = child.is_late and code == -signal.SIGKILL  # else it ended by itself just then
        how = "ignored the grace and was killed" if is_late else _how(code, in_order, was_expected)
        if child.is_leaving and not self._stops:
            how += "; an operator asked it to stop, and no other takes its place"
        names = [queue.name for queue in self.queues] if len(self.queues) > 1 else []
        ids = child.worker_ids or ("",) * len(self.queues)
        event = partial(ProcessEnded, ended=ended, in_order=in_order, expected=was_expected, how=how, queues=names)
        for queue, worker_id in zip(self.queues, ids, strict=False):
            queue.events.publish(event(queue.name, worker_id))

    def _backoff(self, slot: ProcessSlot, lived: float) -> float:
        """Return the seconds until the slot's next start. Its last child lived for `lived` seconds."""
        slot.deaths = 1 if lived >= _HEALTHY else slot.deaths + 1
        if slot.deaths <= 1:
            return 0.0
        return min(_FIRST_PAUSE * 2.0 ** (slot.deaths - 2), _LONGEST_PAUSE) * random.uniform(0.5, 1.5)

    def _release(self, queue: Registry, worker_id: str, *, refund: bool) -> None:
        """Release a dead child's jobs in a queue, in a thread, because the server may be unavailable."""
        log = Log("redisjobs.supervisor", [queue.name] if len(self.queues) > 1 else ())
        most = 2 * self._lease  # seconds: by then its leases are over, and other workers have taken its jobs

        def release() -> None:
            dead = queue.driver.consumer(worker_id, lease=self._lease, max_deliveries=1).sync
            try:
                jobs = retrying_sync(
                    lambda: dead.release(refund=refund, watch=True), on=(Unavailable,), within=most
                )
                log.log(logging.WARNING if jobs else logging.INFO, "released %d jobs of it", jobs)
            except DriverError as error:
                log.warning(_LEFT, error)
            finally:
                dead.close()

        self._releases = [thread for thread in self._releases if thread.is_alive()]
        thread = threading.Thread(target=release, daemon=True)
        try:
            thread.start()
        except (RuntimeError, MemoryError) as error:  # no thread to be had just now
            log.warning(_LEFT, error)
        else:
            self._releases.append(thread)

    def _stop(self) -> None:
        """Pass a stop on to the children, and set when they are killed."""
        self._stops += 1
        grace = self._grace if self._stops == 1 else 0.0
        for slot in self._slots:
            slot.start_at = None
        for child in self._children:
            child.kill_at = min(child.kill_at, time.monotonic() + grace + _MARGIN)
            # Don't repeat the first signal: it may arrive twice anyway, from us and from a service manager.
            child.process.send_signal(signal.SIGTERM if self._stops == 1 else signal.SIGINT)

    def _reload(self) -> None:
        """Stop all children, and start others at once where none runs."""
        if self._stops:
            return
        for slot in self._slots:
            slot.deaths = 0
            if slot.start_at is not None:
                slot.start_at = 0.0
            if (child := slot.child) is not None and not child.is_outdated:
                child.is_outdated = True
                child.hurry_at = time.monotonic() + _RELOAD_GRACE
                child.kill_at = child.hurry_at + _RELOAD_MARGIN
                child.process.send_signal(signal.SIGTERM)

    def _end_late(self) -> None:
        """Stop the children at once whose time for a reload is over, and kill those that run after the grace."""
        now = time.monotonic()
        for child in self._children:
            if child.hurry_at <= now:
                child.hurry_at = NEVER
                if child.end is None:  # else the interpreter exits, and may handle no signal any more
                    child.process.send_signal(signal.SIGINT)
            if child.kill_at <= now:
                logger.error("worker process %d ignored the grace and is killed", child.process.pid)
                child.kill_at, child.is_late = NEVER, True
                child.process.kill()


def _how(code: int, in_order: bool, was_expected: bool) -> str:
    """Return how a process ended, in words."""
    if in_order:
        return "ended" if was_expected else "stopped, though its supervisor did not ask for it"
    if code == 0:
        return "ended with code 0 and without a word: something in it exited"
    return how_ended(code)

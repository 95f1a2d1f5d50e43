"""A worker process and its supervisor: what each knows of the other, and both ends of the pipe between them."""

import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum

from redisjobs.base.visible import visible
from redisjobs.worker.settings.health import Health

NEVER = float("inf")

_REPORT = 1.0  # seconds between a child's reports of its health
_LEAVES = "leaves"  # a line of the pipe: an operator asked the worker to stop
_BETWEEN = "}"  # between two ids in a line of the pipe; no id has a brace


class LastLine(StrEnum):
    """The last line of a supervised worker, sent when all is settled. Its exit status may come from a handler."""

    DRAINED = "drained"  # nothing is left to run
    STOPPED = "stopped"
    SHARE = "share"  # it reached a limit of jobs, memory or threads: another worker replaces it at once
    HINDERED = "hindered"  # the system gives it no threads, and may give none to the next worker


@dataclass(slots=True)
class Child:
    """A worker process."""

    process: subprocess.Popen[bytes]
    worker_ids: tuple[str, ...] = ()  # its id in each of its queues; empty until it reports them, before it claims
    health: Health = field(default_factory=lambda: Health(True, False, "starting"))
    is_partial: bool = False  # it takes jobs from only some of its queues
    noticed_at: float = field(default_factory=time.monotonic)
    started_at: float = field(default_factory=time.monotonic)
    end: LastLine | None = None  # its last line
    hurry_at: float = NEVER  # when it must stop at once, by the monotonic clock
    kill_at: float = NEVER  # when it is killed
    is_outdated: bool = False  # it was asked to end, because the code has changed
    is_late: bool = False  # it was killed, because it ran on after the grace
    is_leaving: bool = False  # an operator asked it to stop, so no other takes its place


def listen(child: Child, line: socket.socket) -> None:
    """Read a child's reports until its end."""
    with line, line.makefile("rb") as words:
        for word in words:
            if not word.endswith(b"\n"):
                return  # cut off by the child's end
            ids, what, *rest = word.decode().rstrip("\n").split(" ", 3)
            child.worker_ids = tuple(ids.split(_BETWEEN))
            if what == _LEAVES:
                child.is_leaving = True
                continue
            if not rest:
                child.end = LastLine(what)
                continue
            ready, why = rest
            child.health = Health(what == "live", ready in ("ready", "partly"), why)
            child.is_partial = ready == "partly"
            child.noticed_at = time.monotonic()


class Pipe:
    """A child's end of the pipe. It reports the worker's health, and notices when the supervisor is gone.

    `worker_ids` returns the worker's id in each of its queues. These are sent at once, and with each report.
    """

    def __init__(self, descriptor: int, worker_ids: Callable[[], Sequence[str]]) -> None:
        os.set_inheritable(descriptor, False)  # processes that handlers start must not inherit it
        self._socket = socket.socket(fileno=descriptor)
        self._worker_ids = worker_ids
        self._report(Health(True, False, "starting"))

    def _report(self, health: Health) -> None:
        takes = "ready" if all(queue.ready for queue in health.queues) else "partly"
        live, ready = "live" if health.live else "-", takes if health.ready else "-"
        self._send(f"{live} {ready} {visible(health.why)}")

    def _send(self, words: str) -> None:
        self._socket.sendall(f"{_BETWEEN.join(self._worker_ids())} {words}\n".encode())

    def leave(self) -> None:
        """Report that an operator asked the worker to stop. The supervisor starts no other in its place."""
        with suppress(OSError):  # the supervisor is gone
            self._send(_LEAVES)

    def end(self, end: LastLine) -> None:
        """Report that the worker has ended in order. Nothing follows."""
        with suppress(OSError):  # the supervisor is gone
            self._send(end.value)

    def follow(self, health: Callable[[], Health], orphaned: Callable[[], object]) -> None:
        """Report the health every second, in a thread. Call `orphaned` once the supervisor is gone."""

        def follow() -> None:
            self._socket.settimeout(_REPORT)
            with suppress(OSError):
                while True:
                    self._report(health())
                    with suppress(TimeoutError):
                        if not self._socket.recv(1):
                            break
            orphaned()

        threading.Thread(target=follow, name="redisjobs supervisor pipe", daemon=True).start()

"""A worker process under a supervisor, and the pipe by which it says how it is and hears that it is alone."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum

from redisjobs.base.visible import visible
from redisjobs.worker.settings.health import Health

# -P: without it the current directory comes first where Python looks for modules, and a `queue.py` there would be
# taken for Python's own.
PROGRAM = (sys.executable, "-P", "-m", "redisjobs")
"""How a process is started that runs a command of ours."""

_SAY = 1.0  # seconds between what a child says of its health
_BETWEEN = "}"  # two ids in what it says: none has a brace


class End(StrEnum):
    """What a supervised worker says last, with all settled. Its exit code tells less: that may be a handler's."""

    DRAINED = "drained"  # nothing is left to run
    STOPPED = "stopped"
    SHARE = "share"  # it had its share of jobs, memory or threads: another takes its place at once
    HINDERED = "hindered"  # the system gives it no threads, and may give the next one none


@dataclass(slots=True)
class Child:
    """A worker process.

    Attributes:
        process: The process.
        worker_ids: Who it is in each of its queues, as it told us, before it claimed anything; empty until then.
        health: As it told us last.
        is_partial: Whether it takes jobs of some of its queues only.
        heard_at: When that was, by the monotonic clock.
        started_at: When it was started.
        end: Its last word; None until then.
        is_late: Whether it was killed, as it ran on after the grace.
    """

    process: subprocess.Popen[bytes]
    worker_ids: tuple[str, ...] = ()
    health: Health = field(default_factory=lambda: Health(True, False, "starting"))
    is_partial: bool = False
    heard_at: float = field(default_factory=time.monotonic)
    started_at: float = field(default_factory=time.monotonic)
    end: End | None = None
    is_late: bool = False


def listen(child: Child, line: socket.socket) -> None:
    """Take in what a child says of itself, until its end."""
    with line, line.makefile("rb") as words:
        for word in words:
            if not word.endswith(b"\n"):
                return  # cut off by its end
            ids, what, *rest = word.decode().rstrip("\n").split(" ", 3)
            child.worker_ids = tuple(ids.split(_BETWEEN))
            if not rest:
                child.end = End(what)
                continue
            ready, why = rest
            child.health = Health(what == "live", ready in ("ready", "partly"), why)
            child.is_partial = ready == "partly"
            child.heard_at = time.monotonic()


class Pipe:
    """A child's end of the pipe: it says how the worker is, and hears when its supervisor is gone.

    Args:
        descriptor: The file descriptor.
        worker_ids: Tells who it is in each of its queues; told at once, and whenever something is said.
    """

    def __init__(self, descriptor: int, worker_ids: Callable[[], Sequence[str]]) -> None:
        os.set_inheritable(descriptor, False)  # what the handlers start has no business with it
        self._socket = socket.socket(fileno=descriptor)
        self._worker_ids = worker_ids
        self._say(Health(True, False, "starting"))

    def _say(self, health: Health) -> None:
        takes = "ready" if all(queue.ready for queue in health.queues) else "partly"
        live, ready = "live" if health.live else "-", takes if health.ready else "-"
        self._socket.sendall(f"{self._who()} {live} {ready} {visible(health.why)}\n".encode())

    def _who(self) -> str:
        return _BETWEEN.join(self._worker_ids())

    def end(self, end: End) -> None:
        """Say that the worker has ended in order; there is no more to say."""
        with suppress(OSError):  # nobody listens any more
            self._socket.sendall(f"{self._who()} {end.value}\n".encode())

    def follow(self, health: Callable[[], Health], orphaned: Callable[[], object]) -> None:
        """Tell of the worker every second, in a thread; call `orphaned` once nobody listens any more."""

        def follow() -> None:
            self._socket.settimeout(_SAY)
            with suppress(OSError):
                while True:
                    self._say(health())
                    with suppress(TimeoutError):
                        if not self._socket.recv(1):
                            break
            orphaned()

        threading.Thread(target=follow, name="redisjobs supervisor pipe", daemon=True).start()

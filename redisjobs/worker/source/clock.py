"""The server's clock, as one worker knows it: its time, and since when that can be trusted. Pure.

A worker is dead once its lease is over by the server's clock. If that clock is set, the server stands still, or a
standby that lags takes its place, all leases seem to be over at once. So a worker takes another for dead only
after it has seen two things by its own clock, for as long as the other's lease: the server's clock ran evenly, and
the same server answered, as far as the driver can tell.
"""

from collections import deque

_SLACK = 0.05  # seconds that two clocks may seem to differ by
_DRIFT = 0.001  # share of the time that has passed
_GAPS = 4096  # how many gaps between answers are remembered
_SILENCE = 0.6  # share of a lease that the server may be silent; with the third before a beat, less than a lease
_SHORT = 0.02  # seconds; shorter gaps matter for no lease
_CHANGES = 2  # of the server within a lease; more are no failovers: a proxy lets several servers answer in turn


class LeaseClock:
    """What a server's answers show about its clock. Times are seconds of this machine's monotonic clock."""

    def __init__(self) -> None:
        self.is_known = False
        self._offset = 0.0  # the server's clock less ours, s
        self._last_ms = 0.0  # in the last answer
        self._last_sent = self._last_heard = float("-inf")
        self._even_since = float("inf")
        # When each gap ended, and how long it was. Each is longer than all later ones.
        self._gaps: deque[tuple[float, float]] = deque()
        self._server = ""  # which one gave the last answer
        self._changed_at: deque[float] = deque(maxlen=_CHANGES)

    def now_ms(self, now: float) -> int:
        """Return the server's time, as well as it is known."""
        return int((now + self._offset) * 1000)

    def seconds_until(self, at_ms: int, now: float) -> float:
        """Return how many seconds it is until a time of the server's clock."""
        return at_ms / 1000 - self._offset - now

    def record(self, server_ms: float, sent: float, now: float) -> float:
        """Record an answer: the server's time, when the request was sent, and when the answer came.

        Returns:
            The seconds by which the clock was surely set since the last answer: ahead or, if negative, back. The
            answer may also have come from another server.
        """
        if sent < self._last_sent:
            return 0.0  # a later request was answered first, and knew more
        step = self._step(server_ms, sent, now) if self.is_known else 0.0
        if step or not self.is_known:
            self._even_since = now
        elif (gap := now - self._last_heard) > _SHORT:
            while self._gaps and self._gaps[-1][1] <= gap:
                self._gaps.pop()
            self._gaps.append((now, gap))
            if len(self._gaps) > _GAPS:
                forgotten, _ = self._gaps.popleft()
                self._even_since = max(self._even_since, forgotten)
        self._last_ms, self._last_sent, self._last_heard = server_ms, sent, now
        self._offset, self.is_known = server_ms / 1000 - now, True
        return step

    def _step(self, server_ms: float, sent: float, now: float) -> float:
        there = (server_ms - self._last_ms) / 1000
        most, least = now - self._last_sent, sent - self._last_heard
        slack = _SLACK + _DRIFT * most
        if there > most + slack:
            return there - most
        if there < least - slack:
            return there - least
        return 0.0

    def note_server(self, server: str, lease: float, now: float) -> bool:
        """Note which server has answered, '' if unknown; return whether the clock is trusted only from now on.

        Another server may lack the beats of the last seconds. Where servers change more than `_CHANGES` times
        within a lease, that means nothing: else no lost worker would ever be taken for dead.
        """
        is_other = bool(server and self._server and server != self._server)
        self._server = server or self._server
        if not is_other:
            return False
        is_failover = len(self._changed_at) < _CHANGES or self._changed_at[0] < now - lease
        self._changed_at.append(now)
        if is_failover:
            self._even_since = now
        return is_failover

    def is_trusted(self, lease: float, now: float) -> bool:
        """Return whether a lease of `lease` seconds that seems to be over surely is.

        Its worker beats every third of its lease. So its beats would have arrived if, for the length of that
        lease, the server's clock ran evenly and the server was never silent for much more than half of it.
        """
        since = now - lease
        if self._even_since > since or now - self._last_heard > _SILENCE * lease:
            return False
        longest = next((length for ended, length in self._gaps if ended > since), 0.0)
        return longest <= _SILENCE * lease

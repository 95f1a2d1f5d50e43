"""A clock that a test can set, and drivers read."""

import time


class Clock:
    """A clock for drivers, in ms since 1970. It shows the real time until a test sets it.

    Attributes:
        set_to: The time at which it stands still, in ms; None while it runs.
        ahead: The seconds by which it is ahead of the real time while it runs.
    """

    def __init__(self) -> None:
        self.set_to: int | None = None
        self.ahead = 0.0

    def __call__(self) -> int:
        """Return the time, in ms."""
        return time.time_ns() // 1_000_000 + int(self.ahead * 1000) if self.set_to is None else self.set_to

    def step(self, seconds: float) -> None:
        """Set the clock ahead, or back, and let it run on."""
        self.ahead += seconds

    def advance(self, seconds: float) -> None:
        """Set the clock ahead by this much, and stop it there."""
        self.set_to = self() + int(seconds * 1000)

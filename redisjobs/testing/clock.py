"""A clock that tests set."""

import time


class Clock:
    """The time in ms since 1970: the real time until a test sets it. For drivers.

    Attributes:
        set_to: The time at which it stands still, in ms; None while it runs.
        ahead: Seconds that it is ahead of the real time while it runs.
    """

    def __init__(self) -> None:
        self.set_to: int | None = None
        self.ahead = 0.0

    def __call__(self) -> int:
        """The time."""
        return time.time_ns() // 1_000_000 + int(self.ahead * 1000) if self.set_to is None else self.set_to

    def step(self, seconds: float) -> None:
        """Set the clock ahead, or back; it runs on."""
        self.ahead += seconds

    def advance(self, seconds: float) -> None:
        """Stop the clock, that much later."""
        self.set_to = self() + int(seconds * 1000)

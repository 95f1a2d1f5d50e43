"""What time it is, as a test says."""

import time


class Clock:
    """What time it is, in ms since 1970: the real time until a test sets it. For a driver to go by.

    Attributes:
        set_to: Where it stands still, in ms; None: it runs.
        ahead: For how many seconds it is ahead of the real time, while it runs.
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

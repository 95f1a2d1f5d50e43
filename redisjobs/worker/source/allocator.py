"""Which source of a worker claims next. Pure."""

from collections.abc import Sequence


class Allocator:
    """Gives sources their turns: by weight, or strictly in order.

    By weight they take turns smoothly: at weights 2 and 1 these are a, b, a, and not a, a, b (nginx's smooth
    weighted round robin). A turn is for one job: a claim that brings several is as many turns, had at once.
    In strict order the first that is hungry has every turn.

    Args:
        weights: One for each source, each above 0.
        strict: Whether the order of the sources is all that counts.

    Attributes:
        is_strict: The same.
    """

    def __init__(self, weights: Sequence[float], *, strict: bool = False) -> None:
        self._weights = weights
        self.is_strict = strict
        self._credit = [0.0] * len(weights)

    def next(self, hungry: Sequence[bool]) -> int | None:
        """Whose turn it is among those that are hungry; None if none is."""
        waiting = [source for source, wants in enumerate(hungry) if wants]
        if self.is_strict or len(waiting) < 2:
            return min(waiting, default=None)
        return max(waiting, key=lambda source: (self._credit[source] + self._weights[source], -source))

    def claimed(self, source: int, hungry: Sequence[bool], turns: int = 1) -> None:
        """Note that a source has had its turn, or several at once, while these were hungry."""
        total = 0.0
        for each, wants in enumerate(hungry):
            if wants:
                self._credit[each] += turns * self._weights[each]
                total += turns * self._weights[each]
        self._credit[source] -= total

    def emptied(self, source: int) -> None:
        """Note that a source had no more jobs than it got: it saves no turns for the time when it has some."""
        saved, debts = self._credit[source], -sum(credit for credit in self._credit if credit < 0)
        if saved > 0:
            left = max(0.0, 1 - saved / debts)  # of what the others owe: credits add up to 0
            self._credit = [credit * left if credit < 0 else credit for credit in self._credit]
            self._credit[source] = 0.0

"""Which source of a worker claims next. Pure."""

from collections.abc import Sequence


class Allocator:
    """Gives sources their turns: by weight, or strictly in order.

    By weight they take turns smoothly: at weights 2 and 1 these are a, b, a, and not a, a, b (nginx's smooth
    weighted round robin). In strict order the first that is hungry has every turn.

    Args:
        weights: One for each source, each at least 1.
        strict: Whether the order of the sources is all that counts.
    """

    def __init__(self, weights: Sequence[int], *, strict: bool = False) -> None:
        self._weights = weights
        self._strict = strict
        self._credit = [0] * len(weights)

    def next(self, hungry: Sequence[bool]) -> int | None:
        """Whose turn it is among those that are hungry; None if none is."""
        waiting = [source for source, wants in enumerate(hungry) if wants]
        if self._strict or len(waiting) < 2:
            return min(waiting, default=None)
        return max(waiting, key=lambda source: (self._credit[source] + self._weights[source], -source))

    def claimed(self, source: int, hungry: Sequence[bool]) -> None:
        """Note that a source has had its turn, while these were hungry."""
        total = 0
        for each, wants in enumerate(hungry):
            if wants:
                self._credit[each] += self._weights[each]
                total += self._weights[each]
        self._credit[source] -= total

"""How rates are written: `100/s`, `20/m`, `5/h`."""

import re

_UNITS = {"s": 1_000, "m": 60_000, "h": 3_600_000}


def pause_of(rate: str) -> float:
    """How many ms are between two jobs.

    Raises:
        ValueError: It is no rate.
    """
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)/([smh])", rate) if isinstance(rate, str) else None
    if not found or not float(found[1]):
        raise ValueError(f"rate={rate!r}: give how many in a second, a minute or an hour, as 100/s, 20/m or 5/h")
    return _UNITS[found[2]] / float(found[1])

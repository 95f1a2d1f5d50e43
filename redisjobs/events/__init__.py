"""Events: what has happened on a queue, published afterwards to its listeners.

One event covers a whole batch, so a job costs nothing unless a listener wants it. Logs and recordings are
listeners. Code that changes what happens is a middleware instead.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from redisjobs.events.kinds import *  # noqa: F403


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from redisjobs.events import kinds  # here: a producer uses the middleware of this package, and no events

    return getattr(kinds, name)

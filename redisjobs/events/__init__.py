"""Events: what has happened on a queue, published afterwards to its listeners.

One event covers a whole batch, so a job costs nothing unless a listener wants it. Logs and recordings are
listeners. Code that changes what happens is a middleware instead.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from redisjobs.events.kinds import *  # noqa: F403


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Imported here: a producer uses the middleware of this package, and no events. Not by `from … import kinds`,
    # which asks this function for it.
    return getattr(import_module(f"{__name__}.kinds"), name)

"""Resets objects in a forked process, because its parent still uses their threads and connections."""

import os
import weakref
from typing import Protocol


class ForkReset(Protocol):
    """An object that a forked process resets."""

    def begin(self) -> None:
        """Drop the connections and threads without using them, and start empty."""


_begun: "weakref.WeakSet[ForkReset]" = weakref.WeakSet()


def begin_after_fork(thing: ForkReset) -> None:
    """Reset an object in each forked process, as long as the object exists.

    The reset runs when the process starts. It has only one thread then, so no other thread sees it half done.
    """
    _begun.add(thing)


def _begin_all() -> None:
    for thing in list(_begun):
        thing.begin()


if hasattr(os, "register_at_fork"):  # else nothing forks here
    os.register_at_fork(after_in_child=_begin_all)
